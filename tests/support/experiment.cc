#include "tests/support/experiment.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"

namespace choir::tests {

std::string WriteExperiment(const std::string& dir,
                            const TopicExperiment& experiment) {
  std::string lines;
  for (int i = 0; i < experiment.examples; ++i) {
    absl::StrAppend(
        &lines, "{\"topic\":\"t", i % experiment.topics, "\",\"prompt\":\"Say ",
        i, ":\",\"response\":\"once upon a time number ", i * 7, "\"}\n");
  }
  const std::string data = base::JoinPath(dir, "data.jsonl");
  const std::string path = base::JoinPath(dir, "experiment.toml");
  const std::string text = absl::StrCat(
      "[job]\nname = \"topics\"\n[job.model]\nbase = \"", experiment.base_model,
      "\"\n", experiment.tables,
      "[clients]\npartition = \"natural\"\nfield = \"topic\"\n"
      "[clients.data]\npath = \"",
      data, "\"\nholdout = 0.25\n[simulation.device]\nkind = \"cpu\"\n");
  CHOIR_CHECK(base::WriteFileAtomic(data, lines).ok());
  CHOIR_CHECK(base::WriteFileAtomic(path, text).ok());
  return path;
}

}  // namespace choir::tests
