// A cluster whose journal is read back after each refusal, by choir-audit.
#ifndef CHOIR_TESTS_E2E_REFUSALS_AUDITED_H_
#define CHOIR_TESTS_E2E_REFUSALS_AUDITED_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/cluster.h"

namespace choir::tests {

// "PEER METHOD: REASON" of each PeerRefused, as `choir-audit show` tells it.
// Asks the coordinator something first: refusals it has answered are recorded
// by then.
std::vector<std::string> PeerRefusals(Cluster& cluster);

// "CLIENT: REASON" of each UpdateRefused, as `choir-audit export` tells it.
std::vector<std::string> UpdateRefusals(Cluster& cluster);

// "JOB STATE: REASON" of each JobFinished, likewise.
std::vector<std::string> FinishedJobs(Cluster& cluster);

// Runs a program of the build; `name` without its folder.
CommandResult RunProgram(const std::string& name,
                         const std::vector<std::string>& arguments);

// Expects exactly one line of error on stderr and none on stdout, and the exit
// code; returns the line.
std::string OneError(const CommandResult& result, int exit_code);

// The "message" of the one document {"error":{...}} on stdout, nothing being on
// stderr; expects the exit code.
std::string OneErrorDocument(const CommandResult& result, int exit_code);

// One coordinator for all tests of a suite. After each test it still answers
// and its store verifies; after the last it drains and ends with 0.
class AuditedTest : public testing::Test {
 protected:
  static void SetUpTestSuite();
  static void TearDownTestSuite();
  void TearDown() override;

  static Cluster& cluster() { return *cluster_; }
  // choir-admin VERB... with a certificate of a folder made by `ca init`.
  static std::vector<std::string> AdminAs(const std::string& ca_folder,
                                          const std::string& name,
                                          std::vector<std::string> verb);
  // `choir-admin ca issue` in the cluster's CA.
  static void Issue(const std::string& role, const std::string& name);

 private:
  static std::unique_ptr<Cluster> cluster_;
};

}  // namespace choir::tests

#endif  // CHOIR_TESTS_E2E_REFUSALS_AUDITED_H_
