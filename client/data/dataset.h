// A client's own text: read from files, split for evaluation, encoded.
//
// Examples never leave this process; no message here quotes one.
#ifndef CHOIR_CLIENT_DATA_DATASET_H_
#define CHOIR_CLIENT_DATA_DATASET_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/objective/example.h"
#include "model/tokenizer/chat_template.h"
#include "proto/config/job_options.h"

namespace choir::client {

// The largest line of a .jsonl file and the largest .txt file that are read,
// and the most bytes of examples that are held in memory.
inline constexpr uint64_t kMaxLineBytes = 4u << 20;
inline constexpr uint64_t kMaxTextFileBytes = 64u << 20;
inline constexpr uint64_t kMaxDatasetBytes = 2ull << 30;

// Either a plain text, perhaps with a label, or a prompt with its response,
// perhaps with another that was liked less, or a conversation.
struct RawExample {
  std::string text;      // empty for a pair
  std::string prompt;    // empty for a plain text
  std::string response;  // empty for a plain text; "chosen", if that is set
  std::string rejected;  // of a preference
  std::string label;     // "label" as text; empty if there is none
  std::vector<model::ChatMessage> messages;  // of a conversation, else empty
  // Of a preference between conversations, of which `messages` is the one that
  // was liked more: the other, and how many messages at the beginning both
  // share (their prompt).
  std::vector<model::ChatMessage> rejected_messages;
  size_t num_shared = 0;
  bool is_pair = false;
  bool is_preference = false;  // then is_pair too
  // Every other field of the line that is text, a number or true/false, as
  // text ("3", "0.5", "true").
  std::map<std::string, std::string> fields;
};

struct DataOptions {
  // A .jsonl file, or a folder of .txt files.
  std::string path;
  // Keep only examples whose fields have these values.
  std::map<std::string, std::string> where;
  // Stop after so many kept examples; 0 reads all.
  uint64_t max_examples = 0;
};

// Reads a .jsonl file (one object per line, with "text" and perhaps "label";
// with "prompt" and "response"; with "prompt", "chosen" and "rejected"; or with
// "messages", a list of {"role", "content"} of which one is an assistant's;
// "prompt", "chosen" and "rejected" may be such lists, too, and then "prompt"
// may be left out for what the other two begin with) or every .txt file of a
// folder in order of their names (one example each, not looking into
// sub-folders). A UTF-8 byte order mark and CRLF line ends are taken off; empty
// lines and empty files are skipped.
//
// Errors: NOT_FOUND; INVALID_ARGUMENT with file:line and the problem, for
//   another kind of path, for a `where` field that no example has (naming those
//   there are), and if nothing is left; RESOURCE_EXHAUSTED over the limits.
absl::StatusOr<std::vector<RawExample>> LoadDataset(const DataOptions& options);

struct DatasetSplit {
  std::vector<RawExample> train;
  std::vector<RawExample> heldout;
};

// Holds an example out if the SHA-256 of its text, as a number in [0, 1), is
// below `fraction`, so that the same text falls on the same side at every
// client and in every run. Order is kept. `fraction` is in [0, 1].
DatasetSplit SplitHoldout(std::vector<RawExample> examples, double fraction);

// INVALID_ARGUMENT, with the number of examples that do not fit, unless every
// example has what training.objective learns from: dpo a preference,
// classification a text with one of training.labels.
absl::Status CheckExamples(absl::Span<const RawExample> examples,
                           const config::TrainingOptions& training);

// INVALID_ARGUMENT or FAILED_PRECONDITION, with the reason, if there are
// conversations and training.chat_format does not fit the tokenizer, or some of
// them do not fit it.
absl::Status CheckConversations(const model::Tokenizer& tokenizer,
                                absl::Span<const RawExample> examples,
                                const config::TrainingOptions& training);

// Token ids for training. With kSupervised only the response of a pair is
// learnt; with kCausalLm a pair is one text. A plain text is learnt whole in
// both, cut into windows of `max_sequence_length` tokens, so one raw example
// may become several, or none if it has no token to predict. With kDpo and
// kClassification, each becomes one; those that CheckExamples or
// CheckConversations refuses are left out. Of conversations what assistants say
// is learnt, with kCausalLm all of it.
std::vector<model::Example> EncodeExamples(
    const model::Tokenizer& tokenizer, absl::Span<const RawExample> examples,
    const config::TrainingOptions& training);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_DATA_DATASET_H_
