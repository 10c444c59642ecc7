// A generated text, piece by piece as it becomes certain.
#ifndef CHOIR_MODEL_TEXT_STREAM_H_
#define CHOIR_MODEL_TEXT_STREAM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {

// Turns token ids into text: what all pieces make together is what
// Tokenizer::Decode makes of all ids.
//
// A piece is held back while more tokens could still change it: the bytes of a
// character that is not complete; of a tokenizer with byte fallback a run of
// such bytes, which one bad byte spoils as a whole; and what may be the
// beginning of a stop string. A stop string ends the text as soon as it is
// there, be it within such a run.
// Threads: one at a time. `tokenizer` outlives it.
class TextStream {
 public:
  // `prompt` gives the text its beginning, and is no part of it.
  TextStream(const Tokenizer& tokenizer, absl::Span<const int32_t> prompt,
             std::vector<std::string> stops);

  // The text that the next token makes certain, valid UTF-8; may be empty.
  // After a stop string, empty; an id above the tokenizer's last has no text.
  // Errors: those of Tokenizer::Decode.
  absl::StatusOr<std::string> Add(int32_t id);

  // What is still held back, once no more tokens come; broken characters become
  // U+FFFD.
  std::string Finish();

  // True once the text held a stop string, which is left out of it.
  bool stopped() const { return stopped_; }

 private:
  // What the ids from read_ on add to the text, as it stands now.
  absl::StatusOr<std::string> Tail() const;
  // Whether the last id with a text is a byte of a run that may go on.
  bool InByteRun() const;
  // Where the first stop string begins in `text`; npos if there is none.
  size_t FindStop(absl::string_view text) const;
  // Ends the text where the first stop string of `text` begins, if it has one.
  bool StopIn(const std::string& text, std::string& released);
  std::string Release();

  const Tokenizer& tokenizer_;
  const std::vector<std::string> stops_;
  std::vector<int32_t> ids_;
  size_t context_ = 0;  // ids from here on are decoded together
  size_t read_ = 0;     // those before here are in held_ or beyond
  std::string held_;
  bool stopped_ = false;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TEXT_STREAM_H_
