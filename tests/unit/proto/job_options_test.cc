#include "proto/config/job_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/config/toml_config.h"

namespace choir::config {
namespace {

using ::testing::HasSubstr;

v1::JobConfig Minimal() {
  v1::JobConfig config;
  config.set_name("demo");
  config.mutable_model()->set_base("models/choir-tiny");
  config.mutable_rounds()->set_count(3);
  config.mutable_rounds()->set_cohort_size(4);
  return config;
}

TEST(ResolveJobTest, FillsDefaults) {
  const auto options = ResolveJob(Minimal());
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->adapter.rank, 8);
  EXPECT_EQ(options->adapter.scale(), 2.0);
  EXPECT_TRUE(options->adapter.target_modules.empty());
  EXPECT_EQ(options->training.local_epochs, 1);
  EXPECT_EQ(options->rounds.min_survivors, 4);
  EXPECT_EQ(options->rounds.min_available, 4);
  EXPECT_EQ(options->aggregation.max_magnitude(), 128.0);
}

TEST(ResolveJobTest, OverSelectionAsksMoreClients) {
  v1::JobConfig config = Minimal();
  config.mutable_rounds()->set_over_selection(1.3);
  const auto options = ResolveJob(config);
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->rounds.num_to_select(), 6);
  EXPECT_EQ(options->rounds.min_available, 6);
}

TEST(ResolveJobTest, RankStabilisedScaleUsesTheRoot) {
  v1::JobConfig config = Minimal();
  config.mutable_adapter()->set_rank(16);
  config.mutable_adapter()->set_alpha(8);
  config.mutable_adapter()->set_rank_stabilized(true);
  EXPECT_EQ(ResolveJob(config)->adapter.scale(), 2.0);
}

TEST(ResolveJobTest, AdaptersAreFloat32OrBfloat16) {
  v1::JobConfig config = Minimal();
  EXPECT_EQ(ResolveJob(config)->adapter.precision, AdapterPrecision::kFp32);
  config.mutable_adapter()->set_precision("bf16");
  const auto options = ResolveJob(config);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->adapter.precision, AdapterPrecision::kBf16);
  EXPECT_EQ(ToProto(*options).adapter().precision(), "bf16");
}

// Each kind of adapter with one setting that it does not have.
TEST(ResolveJobTest, RefusesSettingsOfOtherKindsOfAdapters) {
  const std::pair<const char*, const char*> cases[] = {
      {"dora", "dropout = 0.1"},
      {"ia3", "rank = 4"},
      {"ia3", "alpha = 4.0"},
      {"ia3", "dropout = 0.5"},
      {"ia3", "rank_stabilized = true"},
      {"ia3",
       "target_modules = [\"k_proj\"]\nfeedforward_modules = "
       "[\"down_proj\"]"},
      {"lofit", "rank = 4"},
      {"lofit", "target_modules = [\"o_proj\"]"},
      {"lofit", "lofit_l1 = -1.0"},
      {"frozen_a", "lofit_heads = 2"},
  };
  for (const auto& [kind, setting] : cases) {
    v1::JobConfig config;
    const std::string text = ToToml(Minimal()) + "\n[adapter]\nkind = \"" +
                             kind + "\"\n" + setting + "\n";
    ASSERT_TRUE(ParseToml(text, "t", {}, &config).ok()) << text;
    const auto options = ResolveJob(config);
    EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument)
        << text;
    EXPECT_THAT(std::string(options.status().message()), HasSubstr("adapter."))
        << text;
  }
}

TEST(ResolveJobTest, EveryKindOfAdapterSurvivesToProto) {
  for (const char* kind : {"lora", "dora", "frozen_a", "ia3", "lofit"}) {
    v1::JobConfig config = Minimal();
    config.mutable_adapter()->set_kind(kind);
    const auto options = ResolveJob(config);
    ASSERT_TRUE(options.ok()) << options.status();
    EXPECT_EQ(AdapterKindName(options->adapter.kind), kind);
    const auto again = ResolveJob(ToProto(*options));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(
        ToProto(*options), ToProto(*again)));
  }
}

TEST(ResolveJobTest, FrozenAFollowsTheJobsSeedUnlessGiven) {
  v1::JobConfig config = Minimal();
  config.mutable_adapter()->set_kind("frozen_a");
  const uint64_t first = ResolveJob(config)->adapter.frozen_seed;
  EXPECT_EQ(first, ResolveJob(config)->adapter.frozen_seed);
  config.set_seed(99);
  EXPECT_NE(first, ResolveJob(config)->adapter.frozen_seed);
  config.mutable_adapter()->set_frozen_seed(5);
  EXPECT_EQ(ResolveJob(config)->adapter.frozen_seed, 5u);
}

TEST(ResolveJobTest, Ia3KnowsTheFeedforwardInputByItsName) {
  v1::JobConfig config = Minimal();
  config.mutable_adapter()->set_kind("ia3");
  EXPECT_TRUE(ResolveJob(config)->adapter.feedforward_modules.empty());
  for (const char* name : {"w2", "k_proj", "down_proj"}) {
    config.mutable_adapter()->add_target_modules(name);
  }
  EXPECT_THAT(ResolveJob(config)->adapter.feedforward_modules,
              testing::ElementsAre("down_proj", "w2"));
}

TEST(ResolveJobTest, AllLinearStandsAlone) {
  v1::JobConfig config = Minimal();
  config.mutable_adapter()->add_target_modules("all-linear");
  ASSERT_TRUE(ResolveJob(config).ok());
  EXPECT_TRUE(ResolveJob(config)->adapter.all_linear());
  config.mutable_adapter()->add_target_modules("q_proj");
  EXPECT_THAT(std::string(ResolveJob(config).status().message()),
              testing::HasSubstr("stands alone"));
}

TEST(ResolveJobTest, LofitTakesNoServerMomentum) {
  v1::JobConfig config = Minimal();
  config.mutable_adapter()->set_kind("lofit");
  ASSERT_TRUE(ResolveJob(config).ok());
  config.mutable_aggregation()->set_server_momentum(0.9);
  EXPECT_THAT(std::string(ResolveJob(config).status().message()),
              HasSubstr("aggregation.server_momentum"));
}

TEST(ResolveJobTest, EveryObjectiveAndAttentionSurvivesToProto) {
  const char* const tables[] = {
      "objective = \"sft\"",
      "objective = \"causal_lm\"\nattention = \"blockwise\"",
      "objective = \"dpo\"\n[training.dpo]\nbeta = 0.3\nlabel_smoothing = 0.1",
      "objective = \"classification\"\nlabels = [\"good\", \"bad\"]",
      "attention = \"block_sparse\"\n[training.block_sparse]\nblock = 32",
      "[training.sparsity]\nmax_rate = 0.5\nstages = 3\nmeasure_every = 4",
      "[training.router]\naux_loss = 0.0",
      "[training.router]\naux_loss = 0.02\nz_loss = 1e-3\nbias_rate = 0.01",
  };
  for (const char* table : tables) {
    v1::JobConfig config;
    const std::string text =
        absl::StrCat(ToToml(Minimal()), "\n[training]\n", table, "\n");
    ASSERT_TRUE(ParseToml(text, "t", {}, &config).ok()) << text;
    const auto options = ResolveJob(config);
    ASSERT_TRUE(options.ok()) << options.status();
    const auto again = ResolveJob(ToProto(*options));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(
        ToProto(*options), ToProto(*again)));
    EXPECT_EQ(again->training.objective, options->training.objective);
    EXPECT_EQ(again->training.labels, options->training.labels);
    EXPECT_EQ(again->adapter.num_labels,
              static_cast<int>(options->training.labels.size()));
    EXPECT_EQ(again->training.dpo.beta, options->training.dpo.beta);
    EXPECT_EQ(again->training.sparsity.stages,
              options->training.sparsity.stages);
    EXPECT_EQ(again->training.router.aux_loss,
              options->training.router.aux_loss);
    EXPECT_EQ(again->training.router.bias_rate,
              options->training.router.bias_rate);
    EXPECT_EQ(again->training.block_sparse.block,
              options->training.block_sparse.block);
  }
}

TEST(ResolveJobTest, RefusesTrainingSettingsThatNobodyWouldRead) {
  const std::pair<const char*, const char*> cases[] = {
      {"[training.dpo]\nbeta = 0.3", "training.dpo"},
      {"objective = \"dpo\"\n[training.dpo]\nbeta = 0.0", "dpo.beta"},
      {"objective = \"dpo\"\n[training.dpo]\nlabel_smoothing = 0.5",
       "label_smoothing"},
      {"labels = [\"a\", \"b\"]", "training.labels"},
      {"objective = \"classification\"", "training.labels"},
      {"objective = \"classification\"\nlabels = [\"a\"]", "training.labels"},
      {"objective = \"classification\"\nlabels = [\"a\", \"a\"]", "twice"},
      {"attention = \"fast\"", "training.attention"},
      {"[training.block_sparse]\nblock = 64", "block_sparse"},
      {"attention = \"block_sparse\"\n[training.block_sparse]\nlocal_blocks = "
       "0",
       "local_blocks"},
      {"[training.sparsity]\nmax_rate = 0.95", "max_rate"},
      {"[training.sparsity]\nmax_rate = 0.5\nstages = 1", "stages"},
      {"[training.router]\naux_loss = -0.5", "router.aux_loss"},
      {"[training.router]\nz_loss = -1.0", "router.z_loss"},
      {"[training.router]\nbias_rate = 2.0", "router.bias_rate"},
      {"[adapter]\nnum_labels = 3", "num_labels"},
  };
  for (const auto& [table, field] : cases) {
    v1::JobConfig config;
    const std::string text =
        absl::StrCat(ToToml(Minimal()), "\n[training]\n", table, "\n");
    ASSERT_TRUE(ParseToml(text, "t", {}, &config).ok()) << text;
    const auto options = ResolveJob(config);
    EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument)
        << text;
    EXPECT_THAT(std::string(options.status().message()), HasSubstr(field));
  }
}

TEST(ResolveJobTest, ToProtoIsAFixedPoint) {
  const JobOptions options = *ResolveJob(Minimal());
  const v1::JobConfig full = ToProto(options);
  const auto again = ResolveJob(full);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(
      full, ToProto(*again)));
}

struct BadCase {
  const char* override_text;
  const char* field;
};

class RefusedJobTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(RefusedJobTest, NamesTheField) {
  v1::JobConfig config;
  ASSERT_TRUE(
      ParseToml(ToToml(Minimal()), "t", {GetParam().override_text}, &config)
          .ok());
  const auto options = ResolveJob(config);
  ASSERT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(options.status().message()),
              HasSubstr(GetParam().field));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedJobTest,
    ::testing::Values(
        BadCase{"name=\"\"", "'job.name'"},
        BadCase{"name=\"a/b\"", "'job.name'"},
        BadCase{"name=\".x\"", "'job.name'"},
        BadCase{"model.base=\"\"", "base"},
        BadCase{"adapter.rank=0", "adapter.rank"},
        BadCase{"adapter.rank=5000", "adapter.rank"},
        BadCase{"adapter.alpha=0.0", "adapter.alpha"},
        BadCase{"adapter.alpha=nan", "adapter.alpha"},
        BadCase{"adapter.alpha=inf", "adapter.alpha"},
        BadCase{"adapter.dropout=1.0", "adapter.dropout"},
        BadCase{"adapter.target_modules=[\"q proj\"]", "target_modules"},
        BadCase{"adapter.precision=\"fp16\"", "adapter.precision"},
        BadCase{"adapter.precision=\"\"", "adapter.precision"},
        BadCase{"adapter.kind=\"vera\"", "adapter.kind"},
        BadCase{"adapter.kind=\"\"", "adapter.kind"},
        BadCase{"adapter.frozen_seed=3", "frozen_seed"},
        BadCase{"adapter.lofit_heads=3", "lofit_heads"},
        BadCase{"adapter.lofit_l1=0.1", "lofit_l1"},
        BadCase{"adapter.feedforward_modules=[\"down_proj\"]",
                "feedforward_modules"},
        BadCase{"adapter.target_modules=[\"q_proj\",\"q_proj\"]", "twice"},
        BadCase{"training.learning_rate=0.0", "learning_rate"},
        BadCase{"training.learning_rate=-1.0", "learning_rate"},
        BadCase{"training.optimizer=\"adam\"", "optimizer"},
        BadCase{"training.objective=\"x\"", "objective"},
        BadCase{"training.batch_size=0", "batch_size"},
        BadCase{"training.beta1=1.0", "beta1"},
        BadCase{"training.epsilon=0.0", "epsilon"},
        BadCase{"training.max_sequence_length=1", "max_sequence_length"},
        BadCase{"rounds.count=0", "rounds.count"},
        BadCase{"rounds.cohort_size=0", "cohort_size"},
        BadCase{"rounds.selection=\"oort\"", "selection"},
        BadCase{"rounds.selection=\"poisson\"", "sampling_rate"},
        BadCase{"rounds.sampling_rate=0.5", "sampling_rate"},
        BadCase{"rounds.over_selection=0.5", "over_selection"},
        BadCase{"rounds.min_survivors=5", "min_survivors"},
        BadCase{"rounds.min_available=3", "min_available"},
        BadCase{"rounds.deadline=\"0s\"", "deadline"},
        BadCase{"rounds.max_lost_in_a_row=100001", "max_lost_in_a_row"},
        BadCase{"aggregation.weighting=\"x\"", "weighting"},
        BadCase{"aggregation.fixed_point_bits=40", "fixed_point_bits"},
        BadCase{"aggregation.server_momentum=1.0", "server_momentum"},
        BadCase{"aggregation.clip_norm_l2=-1.0", "clip_norm_l2"}));

TEST(ResolveJobTest, RefusesStepsAndEpochsTogether) {
  v1::JobConfig config = Minimal();
  config.mutable_training()->set_local_steps(3);
  config.mutable_training()->set_local_epochs(1);
  EXPECT_FALSE(ResolveJob(config).ok());
}

TEST(IsValidNameTest, AcceptsFileNamesOnly) {
  EXPECT_TRUE(IsValidName("agent-1_b.c"));
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("a b"),
        std::string("a/b"), std::string("é"), std::string(65, 'a')}) {
    EXPECT_FALSE(IsValidName(name)) << name;
  }
}

}  // namespace
}  // namespace choir::config
