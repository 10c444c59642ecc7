#include "coordinator/main/admin_text.h"

#include <gtest/gtest.h>

#include <cmath>

#include "choir/v1/admin.pb.h"
#include "coordinator/main/job_json.h"

namespace choir::coordinator {
namespace {

TEST(AdminTextTest, JobsAreATable) {
  EXPECT_EQ(AdminText({{"jobs", nlohmann::json::array()}}), "no jobs\n");
  v1::JobStatus running;
  running.set_job("demo");
  running.set_state("running");
  running.set_rounds_committed(2);
  running.set_rounds_total(40);
  running.set_heldout_loss_before(4.33731);
  running.set_heldout_loss(3.9);
  running.set_available_clients(4);
  running.set_waiting_for("1 updates of 4");
  v1::JobStatus failed;
  failed.set_job("a-longer-name");
  failed.set_state("failed");
  failed.set_rounds_total(1);
  failed.set_heldout_loss_before(std::nan(""));
  failed.set_heldout_loss(std::nan(""));
  failed.set_reason("no model");
  EXPECT_EQ(
      AdminText({{"jobs", {JobJson(running), JobJson(failed)}}}),
      "job            state    rounds  lost  held-out loss     clients  "
      "waiting "
      "for, or reason\n"
      "demo           running  2/40    0     4.3373 -> 3.9000  4        1 "
      "updates of 4\n"
      "a-longer-name  failed   0/1     0     -                 0        no "
      "model\n");
}

TEST(AdminTextTest, ClientsAreATable) {
  v1::ClientStatus client;
  client.set_name("anna");
  client.set_state("enrolled");
  client.set_connected(true);
  client.set_certificate_expires_unix_seconds(1797922480);
  const std::string text = AdminText({{"clients", {ClientJson(client)}}});
  EXPECT_NE(text.find("\nanna    enrolled  yes        -"), std::string::npos)
      << text;
  EXPECT_NE(text.find("2026-12-22 06:54 UTC\n"), std::string::npos) << text;
}

TEST(AdminTextTest, TimesAreDatesAndLongTextsComeLast) {
  EXPECT_EQ(AdminText({{"config", "[model]\nbase = \"x\"\n\n"},
                       {"expires_unix_seconds", 1797922480},
                       {"loss", nullptr},
                       {"reason", ""},
                       {"token", "choir-1"}}),
            "expires: 2026-12-22 06:54 UTC\ntoken: choir-1\nconfig:\n"
            "  [model]\n  base = \"x\"\n");
}

}  // namespace
}  // namespace choir::coordinator
