// Learns a byte-level BPE vocabulary from text.
//
// Source: Sennrich et al., "Neural Machine Translation of Rare Words with
//         Subword Units" (2016), over bytes as in GPT-2.
#ifndef CHOIR_MODEL_TOKENIZER_BPE_TRAINER_H_
#define CHOIR_MODEL_TOKENIZER_BPE_TRAINER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace choir::model {

struct BpeTrainerOptions {
  // Special tokens, 256 bytes and merges together.
  int vocab_size = 2048;
  // A pair that is seen less often is not merged.
  int64_t min_frequency = 2;
  // Get the ids 0, 1, ...; never made of merges.
  std::vector<std::string> special_tokens = {"<|begin|>", "<|end|>"};
  // Puts the first special token before every encoded text.
  bool add_bos = false;
};

// The text of a Hugging Face tokenizer.json: GPT-2's word pattern, no prefix
// space, every byte has a token. The same texts and options give the same
// file. Fewer tokens than vocab_size if no pair is left to merge.
//
// Errors: INVALID_ARGUMENT if vocab_size has no room for bytes and special
//         tokens or is above 2^20, a special token is empty or repeated, or
//         add_bos is set without special tokens.
// Cost:   time about linear in the number of distinct words; memory a small
//         multiple of them.
absl::StatusOr<std::string> TrainBpe(absl::Span<const std::string> texts,
                                     const BpeTrainerOptions& options);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_BPE_TRAINER_H_
