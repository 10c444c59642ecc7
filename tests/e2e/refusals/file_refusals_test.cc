// Configurations and model folders that cannot be used: what each program says
// and how it ends; for jobs also what the journal keeps.
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/exit_codes.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "tests/e2e/refusals/audited.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string MicroFolder() {
  return base::JoinPath(SourceDir(), "tests/data/micro-llama");
}

void WriteText(const std::string& path, const std::string& text) {
  ASSERT_TRUE(
      base::WriteFileAtomic(path, text, base::Durability::kProcessCrash).ok());
}

// ------------------------------------------------------- configuration keys

struct UnknownKey {
  std::string program;
  std::string toml;
  std::string expected;
};

std::vector<UnknownKey> UnknownKeys() {
  return {
      {"choir-coordinator", "stor = \"x\"\n",
       "unknown field 'stor'; did you mean 'store'?"},
      {"choir-coordinator", "[tls]\nca_certifcate = \"x\"\n",
       "unknown field 'tls.ca_certifcate'; did you mean 'ca_certificate'?"},
      {"choir-client", "coordinater = \"x\"\n",
       "unknown field 'coordinater'; did you mean 'coordinator'?"},
      {"choir-client", "[data]\npaht = \"x\"\n",
       "unknown field 'data.paht'; did you mean 'path'?"},
      {"choir-sim", "[job.rounds]\ncoun = 3\n",
       "unknown field 'job.rounds.coun'; did you mean 'count'?"},
      {"choir-sim", "[simulation]\nworker = 3\n",
       "unknown field 'simulation.worker'; did you mean 'workers'?"},
  };
}

TEST(ConfigRefusals, UnknownKeysNamePathAndNearestName) {
  const std::string dir = NewTempDir();
  const std::string file = base::JoinPath(dir, "wrong.toml");
  for (const UnknownKey& key : UnknownKeys()) {
    SCOPED_TRACE(key.expected);
    WriteText(file, key.toml);
    std::vector<std::string> arguments = {"--config", file};
    if (key.program == "choir-sim") {
      arguments = {"run", file, "--out", base::JoinPath(dir, "out")};
    }
    EXPECT_THAT(OneError(RunProgram(key.program, arguments), base::kExitUsage),
                AllOf(HasSubstr(file), HasSubstr(key.expected)));
    arguments.push_back("--json");
    EXPECT_THAT(
        OneErrorDocument(RunProgram(key.program, arguments), base::kExitUsage),
        AllOf(HasSubstr(file), HasSubstr(key.expected)));
  }
  EXPECT_FALSE(base::FileExists(base::JoinPath(dir, "out")));
}

TEST(ConfigRefusals, UnknownKeysOfTheCommandLine) {
  const std::string file = base::JoinPath(NewTempDir(), "empty.toml");
  WriteText(file, "\n");
  for (const char* program : {"choir-coordinator", "choir-client"}) {
    EXPECT_THAT(OneError(RunProgram(program, {"--config", file, "--set",
                                              "limitz.chunk_kib=3"}),
                         base::kExitUsage),
                HasSubstr("unknown field 'limitz'"));
  }
}

class FileRefusals : public AuditedTest {
 protected:
  // A copy of the micro model.
  static std::string CopyOfModel(const std::string& name) {
    const std::string folder = cluster().PathOf(name);
    std::filesystem::copy(MicroFolder(), folder);
    return folder;
  }
  static std::string JobOver(const std::string& name,
                             const std::string& folder) {
    return absl::StrReplaceAll(MicroJob(name, 1, 1), {{MicroFolder(), folder}});
  }
  // The job fails, saying why to the operator and in the journal.
  static void ExpectJobFails(const std::string& name, const std::string& folder,
                             const std::string& expected) {
    SCOPED_TRACE(expected);
    cluster().Submit(JobOver(name, folder));
    ASSERT_EQ(cluster().AwaitJob(name, absl::Seconds(20)).state, "failed");
    const CommandResult shown = cluster().Admin({"job", "show", name});
    EXPECT_THAT(shown.out, AllOf(HasSubstr("reason: "), HasSubstr(expected)));
    EXPECT_THAT(FinishedJobs(cluster()),
                Contains(AllOf(StartsWith(absl::StrCat(name, " FAILED: ")),
                               HasSubstr(expected))));
  }
  // choir-model says the same, whatever it is asked to do.
  static void ExpectModelRefused(const std::string& folder,
                                 const std::string& expected) {
    SCOPED_TRACE(expected);
    const std::string ids = cluster().PathOf("ids.json");
    WriteText(ids, "[[1,2,3]]");
    EXPECT_THAT(
        OneError(RunProgram("choir-model", {"inspect", "--model", folder}),
                 base::kExitUsage),
        HasSubstr(expected));
    EXPECT_THAT(
        OneErrorDocument(RunProgram("choir-model", {"eval", "--model", folder,
                                                    "--ids", ids, "--json"}),
                         base::kExitUsage),
        HasSubstr(expected));
  }
};

TEST_F(FileRefusals, UnknownKeyOfAJobIsRefusedBeforeItIsSent) {
  const std::string file = cluster().PathOf("typo.toml");
  WriteText(file,
            "[job]\nname = \"typo\"\n[job.aggregation]\nweihting = "
            "\"uniform\"\n");
  EXPECT_THAT(
      OneError(RunProgram("choir-admin",
                          AdminAs("ca", "operator", {"job", "submit", file})),
               base::kExitUsage),
      HasSubstr("unknown field 'job.aggregation.weihting'; did you mean "
                "'weighting'?"));
  EXPECT_THAT(
      OneError(RunProgram("choir-admin",
                          AdminAs("ca", "operator", {"job", "show", "typo"})),
               base::kExitFailed),
      HasSubstr("no job \"typo\""));
}

TEST_F(FileRefusals, FoldersThatAreNoModels) {
  ExpectJobFails("nowhere", cluster().PathOf("nowhere-at-all"),
                 "nowhere-at-all");
  ExpectJobFails("file", MicroFolder() + "/config.json", "Not a directory");
  const std::string no_config = CopyOfModel("no-config");
  std::filesystem::remove(no_config + "/config.json");
  ExpectJobFails("no-config", no_config, "has no config.json");
  const std::string tokenizer = CopyOfModel("bad-tokenizer");
  WriteText(tokenizer + "/tokenizer.json", "{\"model\":");
  ExpectJobFails("bad-tokenizer", tokenizer, "tokenizer.json");
  EXPECT_THAT(
      OneError(RunProgram("choir-model", {"tokenize", "--model", tokenizer}),
               base::kExitUsage),
      HasSubstr("tokenizer.json"));
  EXPECT_THAT(OneError(RunProgram("choir-model", {"inspect", "--model",
                                                  cluster().PathOf("none")}),
                       base::kExitFailed),
              HasSubstr("none/config.json: No such file"));
}

TEST_F(FileRefusals, DamagedSafetensors) {
  const std::string whole =
      *base::ReadFile(MicroFolder() + "/model.safetensors");
  std::string huge_header = whole;
  huge_header[7] = '\x7f';
  std::string not_json = whole;
  not_json[8] = '[';
  std::string other_shape = whole;
  const size_t shape = other_shape.find("[384,32]");
  ASSERT_NE(shape, std::string::npos);
  other_shape.replace(shape, 8, "[32,384]");
  const std::vector<std::pair<std::string, std::string>> damaged = {
      {"", "has 0 bytes"},
      {whole.substr(0, 5), "has 5 bytes"},
      {whole.substr(0, 500), "model.safetensors"},
      {whole.substr(0, whole.size() - 1), "the file may be truncated"},
      {whole + "x", "1 bytes follow the last tensor"},
      {huge_header, "claims a header of"},
      {not_json, "(header) is not valid JSON"},
      {other_shape, "has shape [32, 384], not [384, 32]"},
  };
  for (size_t i = 0; i < damaged.size(); ++i) {
    const std::string name = absl::StrCat("damaged-", i);
    const std::string folder = CopyOfModel(name);
    WriteText(folder + "/model.safetensors", damaged[i].first);
    ExpectJobFails(name, folder, damaged[i].second);
    if (i == 3 || i == 6) ExpectModelRefused(folder, damaged[i].second);
  }
  // A good job after all the bad ones starts.
  cluster().Submit(JobOver("good", MicroFolder()));
  EXPECT_EQ(cluster().Admin({"job", "stop", "good"}).exit_code, 0);
  EXPECT_THAT(FinishedJobs(cluster()), Contains(StartsWith("good STOPPED")));
}

TEST_F(FileRefusals, FuzzedSafetensorsHeaders) {
  const std::string whole =
      *base::ReadFile(MicroFolder() + "/model.safetensors");
  const std::string folder = CopyOfModel("fuzzed");
  base::SimRandom random(20261122);
  int refused = 0;
  constexpr int kFiles = 10;
  for (int i = 0; i < kFiles; ++i) {
    std::string fuzzed = whole;
    const uint64_t header =
        static_cast<uint8_t>(whole[0]) + 256u * static_cast<uint8_t>(whole[1]);
    for (int flips = 0; flips < 3; ++flips) {
      fuzzed[random.Below(8 + header)] ^=
          static_cast<char>(1 << random.Below(8));
    }
    WriteText(folder + "/model.safetensors", fuzzed);
    const CommandResult result =
        RunProgram("choir-model", {"inspect", "--model", folder});
    if (result.exit_code == 0) continue;  // a name in the metadata, say
    ++refused;
    EXPECT_THAT(OneError(result, base::kExitUsage),
                HasSubstr("model.safetensors"))
        << "file " << i;
  }
  EXPECT_GE(refused, kFiles - 2);
}

}  // namespace
}  // namespace choir::tests
