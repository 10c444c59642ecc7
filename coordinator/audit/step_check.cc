#include "coordinator/audit/step_check.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "coordinator/aggregate/group_rule.h"
#include "coordinator/aggregate/integer_sum.h"
#include "coordinator/aggregate/server_optimizer.h"
#include "proto/codec/flat_update.h"

namespace choir::audit {
namespace {

// The encoded sum over the kept updates. NOT_FOUND if one was not kept.
absl::StatusOr<std::string> SumAgain(const Step& step,
                                     const std::string& adapter,
                                     const BlobReader& read) {
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                         aggregate::LayoutOfAdapter(adapter));
  CHOIR_ASSIGN_OR_RETURN(
      aggregate::IntegerSum sum,
      aggregate::IntegerSum::Create(layout, step.options.fixed_point_bits));
  for (const Step::Update& update : step.updates) {
    CHOIR_ASSIGN_OR_RETURN(const std::string bytes, read(update.blob.digest()));
    CHOIR_ASSIGN_OR_RETURN(
        const std::vector<float> values,
        codec::DecodeFlatUpdate(bytes, layout, step.options.max_magnitude()));
    CHOIR_RETURN_IF_ERROR(sum.Add(values, update.weight));
  }
  return sum.Encode();
}

bool IsAbsentOrDamaged(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsDataLoss(status);
}

// The aggregate of a secure round from those of its groups.
void CheckGroupSums(const Step& step, const std::string& aggregate,
                    const BlobReader& read,
                    std::vector<std::string>& problems) {
  std::vector<aggregate::IntegerSum> groups;
  for (const v1::BlobRef& blob : step.committed.group_aggregates()) {
    const auto bytes = read(blob.digest());
    if (!bytes.ok()) return;
    auto sum = aggregate::IntegerSum::Decode(*bytes);
    if (!sum.ok()) {
      problems.push_back(
          absl::StrCat("the aggregate of a group cannot be "
                       "decoded: ",
                       sum.status().message()));
      return;
    }
    const uint64_t clients = groups.size() < step.group_survivors.size()
                                 ? step.group_survivors[groups.size()]
                                 : 0;
    if (sum->num_updates() != clients) {
      problems.push_back(absl::StrCat(
          "the aggregate of a group is of ", sum->num_updates(),
          " updates; by the phases of the round it is of ", clients));
    }
    groups.push_back(*std::move(sum));
  }
  if (groups.empty()) return;  // one sum of all
  const auto combined = aggregate::CombineGroups(step.group_rule, groups);
  if (!combined.ok()) {
    problems.push_back(absl::StrCat("the groups cannot be combined: ",
                                    combined.status().message()));
  } else if (combined->Encode() != aggregate) {
    problems.push_back(absl::StrCat("the aggregate is not the ",
                                    config::GroupRuleName(step.group_rule),
                                    " of the aggregates of its groups"));
  }
}

void CheckSum(const Step& step, const std::string& adapter,
              const std::string& aggregate, const BlobReader& read,
              std::vector<std::string>& problems) {
  const auto sum = aggregate::IntegerSum::Decode(aggregate);
  if (!sum.ok()) {
    problems.push_back(absl::StrCat("the aggregate cannot be decoded: ",
                                    sum.status().message()));
    return;
  }
  if (sum->total_weight() != step.committed.total_weight() ||
      sum->num_updates() !=
          static_cast<uint64_t>(step.committed.survivors_size())) {
    problems.push_back(
        absl::StrCat("the aggregate is of ", sum->num_updates(),
                     " updates with weight ", sum->total_weight(),
                     "; the journal says ", step.committed.survivors_size(),
                     " with weight ", step.committed.total_weight()));
  }
  if (step.secure) return CheckGroupSums(step, aggregate, read, problems);
  const auto again = SumAgain(step, adapter, read);
  if (!again.ok()) {
    if (!IsAbsentOrDamaged(again.status())) {
      problems.push_back(absl::StrCat("the kept updates cannot be summed: ",
                                      again.status().message()));
    }
    return;
  }
  if (*again != aggregate) {
    problems.push_back(
        "the aggregate is not the sum of the updates that were kept");
  }
}

}  // namespace

std::vector<std::string> CheckStep(const Step& step, const BlobReader& read) {
  std::vector<std::string> problems;
  const v1::RoundCommitted& committed = step.committed;
  const auto adapter = read(committed.adapter_before().digest());
  const auto aggregate = read(committed.aggregate().digest());
  if (!adapter.ok() || !aggregate.ok()) return problems;
  CheckSum(step, *adapter, *aggregate, read, problems);
  std::string state;
  if (!committed.server_state_before().digest().empty()) {
    auto bytes = read(committed.server_state_before().digest());
    if (!bytes.ok()) return problems;
    state = *std::move(bytes);
  }
  const auto result =
      aggregate::ServerStep(*adapter, *aggregate, state, step.options);
  if (!result.ok()) {
    problems.push_back(absl::StrCat("the server's step cannot be repeated: ",
                                    result.status().message()));
    return problems;
  }
  const std::string adapter_digest = base::Sha256Hex(result->adapter_after);
  if (adapter_digest != committed.adapter().digest()) {
    problems.push_back(absl::StrCat("version ", committed.round(),
                                    " does not follow from the aggregate: "
                                    "recomputed ",
                                    adapter_digest, ", recorded ",
                                    committed.adapter().digest()));
  }
  const std::string state_digest =
      result->server_state.empty() ? "" : base::Sha256Hex(result->server_state);
  if (state_digest != committed.server_state().digest()) {
    problems.push_back(absl::StrCat(
        "the server's optimiser state after round ", committed.round(),
        " does not follow: recomputed '", state_digest, "', recorded '",
        committed.server_state().digest(), "'"));
  }
  return problems;
}

}  // namespace choir::audit
