// The experiments that come with Choir.
#ifndef CHOIR_SIM_MAIN_EXPERIMENT_LIST_H_
#define CHOIR_SIM_MAIN_EXPERIMENT_LIST_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace choir::sim {

struct ListedExperiment {
  std::string name;  // file name without .toml
  std::string path;
  std::string title;  // the file's first comment line
};

// $CHOIR_EXPERIMENTS, else sim/experiments below the current folder, else
// where a build or an installation has them, seen from the running program;
// empty if there is none.
std::string ExperimentDir();

// The .toml files in `directory`, sorted by name. NOT_FOUND.
absl::StatusOr<std::vector<ListedExperiment>> ListExperiments(
    const std::string& directory);

// `given` if it is a file; else the listed experiment of that name; else
// NOT_FOUND.
absl::StatusOr<std::string> FindExperiment(const std::string& given);

}  // namespace choir::sim

#endif  // CHOIR_SIM_MAIN_EXPERIMENT_LIST_H_
