#include "sim/main/experiment_list.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace choir::sim {
namespace {

constexpr char kSuffix[] = ".toml";

std::string ProgramDir() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return ".";
  const std::string program(path, static_cast<size_t>(length));
  return program.substr(0, program.rfind('/'));
}

// Without the comment's mark; empty if the first line is no comment.
std::string FirstComment(const std::string& path) {
  const auto text = base::ReadFile(path, 1 << 20);
  if (!text.ok()) return "";
  const std::vector<std::string> lines =
      absl::StrSplit(*text, absl::MaxSplits('\n', 1));
  absl::string_view line = lines[0];
  if (!absl::ConsumePrefix(&line, "#")) return "";
  return std::string(absl::StripAsciiWhitespace(line));
}

}  // namespace

std::string ExperimentDir() {
  const char* given = std::getenv("CHOIR_EXPERIMENTS");
  if (given != nullptr && given[0] != '\0') return given;
  const std::string program = ProgramDir();
  for (const std::string& candidate :
       {std::string("sim/experiments"),
        absl::StrCat(program, "/../../../sim/experiments"),
        absl::StrCat(program, "/../share/choir/experiments")}) {
    if (base::FileExists(candidate)) return candidate;
  }
  return "";
}

absl::StatusOr<std::vector<ListedExperiment>> ListExperiments(
    const std::string& directory) {
  if (directory.empty()) {
    return absl::NotFoundError(
        "no folder of experiments found; set CHOIR_EXPERIMENTS or give --dir");
  }
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         base::ListDirectory(directory));
  std::vector<ListedExperiment> experiments;
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, kSuffix)) continue;
    ListedExperiment experiment;
    experiment.name = std::string(absl::StripSuffix(name, kSuffix));
    experiment.path = base::JoinPath(directory, name);
    experiment.title = FirstComment(experiment.path);
    experiments.push_back(std::move(experiment));
  }
  return experiments;
}

absl::StatusOr<std::string> FindExperiment(const std::string& given) {
  if (base::FileExists(given)) return given;
  const std::string directory = ExperimentDir();
  if (!directory.empty() && !absl::StrContains(given, '/')) {
    const std::string listed = base::JoinPath(
        directory,
        absl::EndsWith(given, kSuffix) ? given : absl::StrCat(given, kSuffix));
    if (base::FileExists(listed)) return listed;
  }
  return absl::NotFoundError(
      absl::StrCat("no experiment file '", given,
                   "'; `choir-sim list` names those there "
                   "are"));
}

}  // namespace choir::sim
