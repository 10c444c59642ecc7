// Small experiments on topics, for tests of the simulator.
#ifndef CHOIR_TESTS_SUPPORT_EXPERIMENT_H_
#define CHOIR_TESTS_SUPPORT_EXPERIMENT_H_

#include <string>

namespace choir::tests {

struct TopicExperiment {
  std::string base_model;  // its folder
  // One virtual client each, named t0, t1, ...; the examples go round.
  int topics = 6;
  int examples = 60;
  // Further tables of the experiment, in TOML: "[job.rounds]\ncount = 3\n...".
  std::string tables;
};

// Writes data and experiment into the folder `dir` and returns the path of the
// experiment's file. A quarter of the examples is held out. Ends the test
// program if it cannot.
std::string WriteExperiment(const std::string& dir,
                            const TopicExperiment& experiment);

}  // namespace choir::tests

#endif  // CHOIR_TESTS_SUPPORT_EXPERIMENT_H_
