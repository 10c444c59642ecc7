// A store with a small job in it, made with the real parts: three rounds with
// momentum, one lost attempt, a refusal, evaluations.
#ifndef CHOIR_TESTS_UNIT_AUDIT_SAMPLE_STORE_H_
#define CHOIR_TESTS_UNIT_AUDIT_SAMPLE_STORE_H_

#include <functional>
#include <string>
#include <vector>

#include "choir/v1/journal.pb.h"
#include "coordinator/store/store.h"

namespace choir::tests {

struct SampleOptions {
  bool keep_updates = true;
  // Changes records before they are written, to make a journal that lies.
  std::function<void(std::vector<v1::JournalRecord>&)> edit;
};

// The job's records; its blobs are put into `blobs`.
std::vector<v1::JournalRecord> SampleRecords(store::BlobStore& blobs,
                                             const SampleOptions& options);

// Makes the store in `root` and returns it open. Ends the test process if that
// fails.
std::unique_ptr<store::Store> MakeSampleStore(
    const std::string& root, const base::Clock& clock,
    const SampleOptions& options = {});

}  // namespace choir::tests

#endif  // CHOIR_TESTS_UNIT_AUDIT_SAMPLE_STORE_H_
