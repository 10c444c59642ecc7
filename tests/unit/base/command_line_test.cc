#include "base/command_line.h"

#include <gtest/gtest.h>

namespace choir::base {
namespace {

// A program with an option that is required, and with verbs.
class CommandLineTest : public ::testing::Test {
 protected:
  // What is printed for `arguments`, and the exit code.
  std::string ErrorOf(std::vector<std::string> arguments, bool verbs) {
    CLI::App app("A program.", "choir-test");
    app.set_version_flag("--version", "1");
    std::string config;
    int rounds = 0;
    CLI::App* holder = &app;
    if (verbs) {
      app.require_subcommand(1);
      holder = app.add_subcommand("rounds", "Rounds");
      app.add_subcommand("show", "One");
    }
    holder->add_option("--config", config, "File")->required();
    holder->add_option("--rounds", rounds, "So many")->check(AtLeast(1));
    arguments.insert(arguments.begin(), "choir-test");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    ::testing::internal::CaptureStderr();
    const absl::optional<int> code =
        ParseCommandLine(app, static_cast<int>(argv.size()), argv.data());
    const std::string text = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(code.has_value(), !text.empty());
    EXPECT_EQ(code.value_or(kExitUsage), kExitUsage);
    return text;
  }
};

TEST_F(CommandLineTest, NamesWhatIsUnknownBeforeWhatIsMissing) {
  EXPECT_EQ(ErrorOf({"--config", "a", "--rounds=2"}, false), "");
  EXPECT_EQ(ErrorOf({"--confg", "a"}, false),
            "error: unknown option '--confg'; did you mean '--config'?; see "
            "choir-test --help\n");
  EXPECT_EQ(ErrorOf({}, false),
            "error: --config is required; see choir-test --help\n");
  EXPECT_EQ(ErrorOf({"--config", "a", "b"}, false),
            "error: unexpected argument 'b'; see choir-test --help\n");
}

TEST_F(CommandLineTest, NamesTheVerbsThereAre) {
  EXPECT_EQ(ErrorOf({"round", "--config", "a"}, true).substr(0, 59),
            "error: unknown command 'round'; there are rounds, show; see");
  EXPECT_EQ(ErrorOf({"rounds", "--round", "3"}, true),
            "error: unknown option '--round'; did you mean '--rounds'?; see "
            "choir-test rounds --help\n");
  EXPECT_EQ(ErrorOf({"--frobnicate"}, true),
            "error: unknown option '--frobnicate'; see choir-test --help\n");
}

TEST_F(CommandLineTest, SaysWhichNumbersAreTaken) {
  EXPECT_EQ(ErrorOf({"--config", "a", "--rounds", "0"}, false),
            "error: --rounds: '0' is not a whole number from 1 on; see "
            "choir-test --help\n");
  EXPECT_NE(ErrorOf({"--config", "a", "--rounds=-7"}, false), "");
  EXPECT_NE(ErrorOf({"--config", "a", "--rounds=x"}, false), "");
}

TEST(NearestNameTest, NeedsTheFewestEdits) {
  const std::vector<std::string> names = {"listen", "store", "tls"};
  EXPECT_EQ(NearestName("tsl", names), "tls");
  EXPECT_EQ(NearestName("lissen", names), "listen");
  EXPECT_EQ(NearestName("x", {}), "");
  EXPECT_EQ(NearestName("tsl", names, 2), "tls");
  EXPECT_EQ(NearestName("tsl", names, 1), "");
}

}  // namespace
}  // namespace choir::base
