// Command lines read with CLI11, alike in every program. For mains alone.
#ifndef CHOIR_BASE_COMMAND_LINE_H_
#define CHOIR_BASE_COMMAND_LINE_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "base/cli.h"
#include "base/nearest_name.h"

namespace choir::base {

// For options that are whole numbers of at least `least`.
inline CLI::Validator AtLeast(int64_t least) {
  return CLI::Validator(
      [least](std::string& text) {
        int64_t value = 0;
        if (absl::SimpleAtoi(text, &value) && value >= least) {
          return std::string();
        }
        return absl::StrCat("'", text, "' is not a whole number from ", least,
                            " on");
      },
      absl::StrCat(">=", least));
}

// For options that are read into a T, a type of whole numbers: what it cannot
// hold is told the limit, which CLI11 does not name (and it would read -1 as
// the largest unsigned number).
template <typename T>
CLI::Validator Whole() {
  return CLI::Validator(
      [](std::string& text) {
        T value = 0;
        if (absl::SimpleAtoi(text, &value)) return std::string();
        const bool below = absl::StartsWith(text, "-");
        const std::string digits = text.substr(below ? 1 : 0);
        if (digits.empty() ||
            digits.find_first_not_of("0123456789") != std::string::npos) {
          return absl::StrCat("'", text, "' is not a whole number");
        }
        return below ? absl::StrCat("'", text, "' is too small; the least is ",
                                    std::numeric_limits<T>::min())
                     : absl::StrCat("'", text, "' is too large; the most is ",
                                    std::numeric_limits<T>::max());
      },
      "");
}

// The verb that was given, or `app` if none was; `path` becomes what one types
// to call it ("choir-admin job list").
inline const CLI::App& LastVerb(const CLI::App& app,
                                std::string* path = nullptr) {
  const CLI::App* verb = &app;
  std::string names = app.get_name();
  while (!verb->get_subcommands().empty()) {
    verb = verb->get_subcommands().front();
    absl::StrAppend(&names, " ", verb->get_name());
  }
  if (path != nullptr) *path = names;
  return *verb;
}

// What is wrong with the command line that made `error`. CLI11 looks for what
// is missing before it minds what it does not know, and would answer "--config
// is required" to "--confg FILE".
inline std::string DescribeParseError(const CLI::App& app,
                                      const CLI::ParseError& error) {
  const std::vector<std::string> left = app.remaining(/*recurse=*/true);
  const CLI::ExitCodes kind = CLI::ExitCodes(error.get_exit_code());
  if (left.empty() || (kind != CLI::ExitCodes::RequiredError &&
                       kind != CLI::ExitCodes::ExtrasError)) {
    return error.what();
  }
  const CLI::App* verb = &LastVerb(app);
  std::vector<std::string> verbs;
  for (const CLI::App* one :
       verb->get_subcommands([](const CLI::App*) { return true; })) {
    verbs.push_back(one->get_name());
  }
  if (!verbs.empty() && !absl::StartsWith(left.front(), "-")) {
    return absl::StrCat("unknown command '", left.front(), "'; there are ",
                        absl::StrJoin(verbs, ", "));
  }
  for (const std::string& argument : left) {
    if (!absl::StartsWith(argument, "-")) continue;
    std::vector<std::string> known;
    for (const CLI::Option* option : verb->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        known.push_back(absl::StrCat("--", name));
      }
    }
    const std::string meant = NearestName(argument, known, /*most_edits=*/3);
    return absl::StrCat(
        "unknown option '", argument, "'",
        meant.empty() ? "" : absl::StrCat("; did you mean '", meant, "'?"));
  }
  return absl::StrCat("unexpected argument '", left.front(), "'");
}

// The exit code if the command line asks for help or cannot be understood; then
// what there is to say was said. The app's name is the program's.
inline absl::optional<int> ParseCommandLine(CLI::App& app, int argc,
                                            char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::string program;
    LastVerb(app, &program);
    return PrintUsageError(program, DescribeParseError(app, error), argc, argv);
  }
  return absl::nullopt;
}

}  // namespace choir::base

#endif  // CHOIR_BASE_COMMAND_LINE_H_
