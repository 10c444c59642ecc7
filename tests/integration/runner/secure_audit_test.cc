// What the auditor makes of secure rounds: honest ones, and journals that lie.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "coordinator/audit/history.h"
#include "coordinator/audit/output.h"
#include "coordinator/audit/verify.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/secure_fleet.h"

namespace choir::runner {
namespace {

using ::testing::HasSubstr;

using Records = std::vector<v1::JournalRecord>;

class SecureAuditTest : public ::testing::Test {
 protected:
  SecureAuditTest() { WriteBaseModel(base_); }

  config::JobOptions Job(int groups) const {
    config::JobOptions job = FleetJob(base_, 2, 12);
    job.rounds.min_survivors = 9;
    job.rounds.max_lost_in_a_row = 3;
    job.aggregation.max_examples_per_client = 1000;
    job.secure_aggregation.enabled = true;
    job.secure_aggregation.min_clients = 3;
    job.secure_aggregation.dropout_fraction = 0.3;
    if (groups > 0) {
      job.secure_aggregation.group_size = 12 / groups;
      job.secure_aggregation.group_rule = config::GroupRule::kMedian;
    }
    return job;
  }

  std::string Root() const { return base::JoinPath(folder_.path(), "store"); }

  // Runs the job, with dropouts and a lost attempt, in which three name c105
  // if `blame`: two of 12 may collude.
  void Run(const config::JobOptions& job, bool blame = false) {
    auto store =
        *store::Store::Open(Root(), base::Durability::kProcessCrash, clock_);
    std::vector<std::string> names;
    for (int i = 0; i < 12; ++i) names.push_back(absl::StrCat("c", 100 + i));
    SecureFleet fleet(names, *store, clock_);
    ASSERT_TRUE(fleet.Start(job).ok());
    fleet.vanishes = [](const std::string& client, const v1::TaskKey& key,
                        absl::string_view phase) {
      if (key.round() == 2 && key.attempt() == 1) {
        return client > "c104" && phase == engine::kMaskedInput;
      }
      return client == "c103" && phase == engine::kConfirm;
    };
    fleet.tamper = [blame](const std::string& client,
                           v1::SecureExchangeRequest& request, std::string&) {
      if (!blame || client < "c106" || client > "c108" ||
          !request.message().has_share() || request.key().round() != 2 ||
          request.key().attempt() != 1) {
        return;
      }
      v1::SecureRefusal& refusal =
          *request.mutable_message()->mutable_refusal();
      refusal.set_reason(v1::SecureRefusal::REPLAYED);
      refusal.add_peers("c105");
    };
    const absl::Status ran = fleet.Run();
    ASSERT_TRUE(ran.ok()) << ran;
    records_.clear();
    ASSERT_TRUE(store->journal()
                    .ForEach([this](const store::JournalEntry& entry) {
                      records_.push_back(entry.record);
                      return absl::OkStatus();
                    })
                    .ok());
    fleet.StopRunner();
    ASSERT_TRUE(store->Close().ok());
  }

  // A store with the same blobs and a journal that `edit` has changed.
  audit::VerifyReport VerifyEdited(const std::function<void(Records&)>& edit) {
    const std::string root =
        base::JoinPath(folder_.path(), absl::StrCat("edited", ++edits_));
    auto store =
        *store::Store::Open(root, base::Durability::kProcessCrash, clock_);
    Records records(records_.begin() + 1, records_.end());
    edit(records);
    EXPECT_TRUE(store->journal().Append(records).ok());
    EXPECT_TRUE(store->Close().ok());
    std::filesystem::remove_all(base::JoinPath(root, "blobs"));
    std::filesystem::copy(base::JoinPath(Root(), "blobs"),
                          base::JoinPath(root, "blobs"),
                          std::filesystem::copy_options::recursive);
    const auto report = audit::Verify(root);
    EXPECT_TRUE(report.ok()) << report.status();
    return *report;
  }

  static v1::SecurePhaseClosed& Phase(Records& records,
                                      const std::string& name) {
    for (v1::JournalRecord& record : records) {
      if (record.has_secure_phase_closed() &&
          record.secure_phase_closed().phase() == name) {
        return *record.mutable_secure_phase_closed();
      }
    }
    ADD_FAILURE() << "no phase " << name;
    return *records[0].mutable_secure_phase_closed();
  }
  static v1::RoundCommitted& Committed(Records& records) {
    for (v1::JournalRecord& record : records) {
      if (record.has_round_committed()) {
        return *record.mutable_round_committed();
      }
    }
    ADD_FAILURE() << "no round";
    return *records[0].mutable_round_committed();
  }

  TempFolder folder_;
  base::ManualClock clock_{absl::FromUnixSeconds(1700000000)};
  std::string base_ = base::JoinPath(folder_.path(), "base");
  Records records_;
  int edits_ = 0;
};

TEST_F(SecureAuditTest, HonestRoundsAreFine) {
  Run(Job(0));
  const auto report = audit::Verify(Root());
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->ok) << report->reason;
  EXPECT_EQ(report->rounds, 2u);
  EXPECT_TRUE(VerifyEdited([](Records&) {}).ok);
}

TEST_F(SecureAuditTest, HonestGroupsAreFine) {
  Run(Job(3));
  const auto report = audit::Verify(Root());
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->ok) << report->reason;
  // What groups of 4 mean for who may collude.
  const auto history = audit::ReadHistory(Root());
  ASSERT_TRUE(history.ok());
  audit::ShowOptions options;
  options.round = 1;
  const auto json = audit::ShowJson(*history, options);
  ASSERT_TRUE(json.ok());
  const auto& phases = (*json)["attempts"][0]["phases"];
  const auto& group = phases[0]["groups"][0];
  // 2 of 12 collude, and both are in this group: 45 of 495 groups of 4.
  EXPECT_NEAR(group["chance_of_more_corrupt"].get<double>(), 45.0 / 495, 1e-9);
  EXPECT_NEAR(group["chance_to_unmask_one"].get<double>(), 45.0 / 495, 1e-9);
  EXPECT_FALSE(phases[1]["groups"][0].contains("chance_of_more_corrupt"));
}

TEST_F(SecureAuditTest, ShowSaysWhatTheCoordinatorSawInEachPhase) {
  Run(Job(0));
  const auto history = audit::ReadHistory(Root());
  ASSERT_TRUE(history.ok());
  audit::ShowOptions options;
  options.round = 1;
  const auto json = audit::ShowJson(*history, options);
  ASSERT_TRUE(json.ok());
  const auto& attempt = (*json)["attempts"][0];
  EXPECT_EQ(attempt["secure"]["adversary"], "semi_malicious");
  EXPECT_EQ(attempt["secure"]["min_clients"], 3);
  ASSERT_EQ(attempt["phases"].size(), 5u);
  EXPECT_EQ(attempt["phases"][3]["phase"], "confirm");
  EXPECT_EQ(attempt["phases"][3]["answers"], 11);
  EXPECT_EQ(attempt["phases"][3]["dropped"][0], "c103");
  EXPECT_EQ(attempt["phases"][0]["groups"][0]["neighbours"], 11);
  EXPECT_FALSE(
      attempt["phases"][0]["groups"][0].contains("chance_of_more_corrupt"));
  EXPECT_EQ(attempt["survivors"].size(), 12u);
  EXPECT_EQ(attempt["clients"][3]["outcome"], "accepted");
  EXPECT_GT(attempt["rounding_error_l2"].get<double>(), 0.0);
  const auto text = audit::ShowText(*history, options);
  ASSERT_TRUE(text.ok());
  EXPECT_THAT(*text, HasSubstr("phase: masked_input"));
}

TEST_F(SecureAuditTest, JournalsThatLieAreFound) {
  Run(Job(0));
  const struct {
    const char* said;
    std::function<void(Records&)> edit;
  } kLies[] = {
      {"accounts for",
       [](Records& r) {
         Phase(r, "share_keys").mutable_clients()->RemoveLast();
       }},
      {"no size or no digest",
       [](Records& r) {
         Phase(r, "unmask").mutable_clients(0)->set_digest("x");
       }},
      {"is open",
       [](Records& r) { Phase(r, "share_keys").set_phase("unmask"); }},
      {"which its assumptions do not give",
       [](Records& r) {
         Phase(r, "advertise_keys").mutable_groups(0)->set_threshold(2);
       }},
      {"masks would be used twice",
       [](Records& r) {
         std::string id;
         for (v1::JournalRecord& record : r) {
           if (!record.has_round_started()) continue;
           v1::SecureSession& session =
               *record.mutable_round_started()->mutable_secure_session();
           if (id.empty()) id = session.session_id();
           session.set_session_id(id);
         }
       }},
      {"assumes something else",
       [](Records& r) {
         for (v1::JournalRecord& record : r) {
           if (!record.has_round_started()) continue;
           record.mutable_round_started()
               ->mutable_secure_session()
               ->mutable_assumptions()
               ->set_min_clients(1);
         }
       }},
      {"survivors are not those",
       [](Records& r) { Committed(r).mutable_survivors()->RemoveLast(); }},
      {"bytes moved", [](Records& r) { Committed(r).set_bytes_up(1); }},
      {"has no session",
       [](Records& r) {
         for (v1::JournalRecord& record : r) {
           if (record.has_round_started()) {
             record.mutable_round_started()->clear_secure_session();
           }
         }
       }},
      {"with weight", [](Records& r) { Committed(r).set_total_weight(7); }},
      // Of 12, a third more are gone than the assumptions allow for.
      {"a sum of 8 clients was revealed; at least 9 are required",
       [](Records& r) {
         const auto gone = [](const std::string& c) { return c > "c107"; };
         for (const char* name : {"masked_input", "confirm", "unmask"}) {
           auto& clients = *Phase(r, name).mutable_clients();
           for (const auto& client : clients) {
             if (gone(client.client()) && name[0] == 'm') {
               Phase(r, name).add_dropped(client.client());
             }
           }
           clients.erase(
               std::remove_if(clients.begin(), clients.end(),
                              [&](const auto& c) { return gone(c.client()); }),
               clients.end());
         }
         auto& survivors = *Committed(r).mutable_survivors();
         survivors.erase(
             std::remove_if(survivors.begin(), survivors.end(), gone),
             survivors.end());
       }},
  };
  for (const auto& lie : kLies) {
    const audit::VerifyReport report = VerifyEdited(lie.edit);
    EXPECT_FALSE(report.ok) << lie.said;
    bool found = false;
    for (const audit::Finding& finding : report.findings) {
      found |= absl::StrContains(finding.what, lie.said);
    }
    EXPECT_TRUE(found) << lie.said << " was not said, but " << report.reason;
  }
}

TEST_F(SecureAuditTest, WhoIsBlamedIsShownWithWhoNamedIt) {
  Run(Job(0), /*blame=*/true);
  const auto report = audit::Verify(Root());
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->ok) << report->reason;
  const auto history = audit::ReadHistory(Root());
  ASSERT_TRUE(history.ok());
  audit::ShowOptions options;
  options.round = 2;
  const auto json = audit::ShowJson(*history, options);
  ASSERT_TRUE(json.ok());
  const auto& attempts = (*json)["attempts"];
  ASSERT_EQ(attempts.size(), 2u);
  const auto& blamed = attempts[0]["blamed"];
  ASSERT_EQ(blamed.size(), 1u) << attempts[0].dump();
  EXPECT_EQ(blamed[0]["client"], "c105");
  EXPECT_EQ(blamed[0]["named_by"].dump(), R"(["c106","c107","c108"])");
  EXPECT_FALSE(attempts[1].contains("blamed"));
  EXPECT_EQ(attempts[1]["survivors"].size(), 11u);
}

TEST_F(SecureAuditTest, BlameThatNobodySpokeIsFound) {
  Run(Job(0), /*blame=*/true);
  EXPECT_TRUE(VerifyEdited([](Records&) {}).ok);
  const auto blamed = [](Records& records) -> v1::ClientBlamed& {
    for (v1::JournalRecord& record : records) {
      if (record.has_client_blamed()) return *record.mutable_client_blamed();
    }
    ADD_FAILURE() << "nobody is blamed";
    return *records[0].mutable_client_blamed();
  };
  const auto lost = [](Records& records) -> v1::ClientLost& {
    for (v1::JournalRecord& record : records) {
      if (record.client_lost().accused_size() > 0) {
        return *record.mutable_client_lost();
      }
    }
    ADD_FAILURE() << "nobody is named";
    return *records[0].mutable_client_lost();
  };
  const struct {
    const char* said;
    std::function<void(Records&)> edit;
  } kLies[] = {
      {"blamed by 2 clients; 3 are needed",
       [&](Records& r) { blamed(r).mutable_accusers()->RemoveLast(); }},
      {"is said to have named 'c105', and has not",
       [&](Records& r) { *blamed(r).mutable_accusers(2) = "c109"; }},
      {"is said to have named 'c105', and has not",
       [&](Records& r) { lost(r).clear_accused(); }},
      {"is said to have named 'c104', and has not",
       [&](Records& r) { blamed(r).set_client("c104"); }},
      {"who was not with it in a session",
       [&](Records& r) { lost(r).add_accused("stranger"); }},
      {"is not sorted",
       [&](Records& r) { blamed(r).mutable_accusers()->SwapElements(0, 1); }},
      {"in an attempt without a session",
       [&](Records& r) { blamed(r).mutable_key()->set_attempt(2); }},
  };
  for (const auto& lie : kLies) {
    const audit::VerifyReport report = VerifyEdited(lie.edit);
    EXPECT_FALSE(report.ok) << lie.said;
    bool found = false;
    for (const audit::Finding& finding : report.findings) {
      found |= absl::StrContains(finding.what, lie.said);
    }
    EXPECT_TRUE(found) << lie.said << " was not said, but " << report.reason;
  }
}

TEST_F(SecureAuditTest, AnotherCombinationOfGroupsIsFound) {
  Run(Job(3));
  const audit::VerifyReport order = VerifyEdited([](Records& records) {
    Committed(records).mutable_group_aggregates()->SwapElements(0, 1);
  });
  EXPECT_TRUE(order.ok) << "the rule has no order: " << order.reason;
  const audit::VerifyReport twice = VerifyEdited([](Records& records) {
    v1::RoundCommitted& committed = Committed(records);
    *committed.mutable_group_aggregates(0) = committed.group_aggregates(1);
  });
  EXPECT_FALSE(twice.ok);
  EXPECT_THAT(twice.reason, HasSubstr("not the median"));
  const audit::VerifyReport chosen = VerifyEdited([](Records& records) {
    v1::SecurePhaseClosed& phase = Phase(records, "advertise_keys");
    for (int i = 1; i < phase.clients_size(); ++i) {
      const uint32_t first = phase.clients(0).group();
      if (phase.clients(i).group() == first) continue;
      phase.mutable_clients(0)->set_group(phase.clients(i).group());
      phase.mutable_clients(i)->set_group(first);
      return;
    }
  });
  EXPECT_FALSE(chosen.ok);
  EXPECT_THAT(chosen.reason, HasSubstr("not those that the job's seed draws"));
  const audit::VerifyReport fewer = VerifyEdited([](Records& records) {
    Committed(records).mutable_group_aggregates()->RemoveLast();
  });
  EXPECT_FALSE(fewer.ok);
}

}  // namespace
}  // namespace choir::runner
