// Drives the round engine of one job over a store: persists its records, then
// carries out its actions. Shared by the daemon and the simulator, which differ
// only in how tasks reach clients and what time is.
#ifndef CHOIR_COORDINATOR_RUNNER_JOB_RUNNER_H_
#define CHOIR_COORDINATOR_RUNNER_JOB_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/secure_random.h"
#include "base/thread_pool.h"
#include "coordinator/engine/engine.h"
#include "coordinator/store/store.h"
#include "privacy/secagg/credentials.h"

namespace choir::runner {

// The hooks are called from inside Start(), Post(), PostSecure() and Poll();
// they must not call the runner.
struct RunnerHooks {
  // Required: hand the plan to the client (deadline_ms is set).
  std::function<void(const std::string& client, v1::TaskPlan plan)> send_task;
  // Optional: called for each record once it is durable.
  std::function<void(const v1::JournalRecord& record)> on_record;
  // Needed for jobs with secure aggregation: the answer to the message that
  // `client` handed in last for task `key`. ABORTED, with the reason: the
  // attempt is over for it. Whoever is not waiting for the answer may drop it:
  // PostSecure() gives it again to who repeats the message. Not called for the
  // client whose PostSecure() is running, which is given it as the result.
  std::function<void(const std::string& client, const v1::TaskKey& key,
                     const absl::StatusOr<v1::SecureServerMessage>& answer)>
      send_secure;
};

struct RunnerOptions {
  // Keep single updates in the blob store after their round.
  bool keep_updates = false;
  // Who may advertise keys; needed for jobs with secure aggregation. Outlives
  // the runner.
  const secagg::PeerVerifier* verifier = nullptr;
  // Of session ids; null: the system's. Outlives the runner.
  base::SecureRandom* random = nullptr;
};

// INVALID_ARGUMENT if the job's secure aggregation has no parameters for its
// cohort (privacy/secagg/parameters.h) or no modulus, naming the remedy. What
// ResolveJob() can tell, it has told. To be asked when a job is submitted.
absl::Status CheckSecureJob(const config::JobOptions& options);

// Threads: one thread at a time, and none of `pool`'s.
class JobRunner {
 public:
  // Begins the job, or goes on where the store's journal says it stopped. A new
  // job's base model folder is copied into the blob store (its files are
  // config.json, tokenizer.json, *.safetensors and their like) and version 0 of
  // the adapter made from the job's seed; the same base, seed and adapter
  // settings give the same bytes. `store`, `clock` and `pool` (may be null: sum
  // on the calling thread) outlive the runner.
  // Errors: INVALID_ARGUMENT for an unreadable base model.
  static absl::StatusOr<std::unique_ptr<JobRunner>> Start(
      const config::JobOptions& options, const RunnerOptions& runner_options,
      store::Store& store, const base::Clock& clock, base::ThreadPool* pool,
      RunnerHooks hooks);
  virtual ~JobRunner() = default;

  // Checks what the engine takes for granted (an update's blob: present, right
  // digest, layout and size, finite, in range; claimed examples in range), lets
  // the engine decide, persists, acts. The answer is meant for the peer.
  //
  // Errors: UNAVAILABLE while the journal cannot be written (disk full): the
  // decision is kept and made durable first thing at the next Post() or Poll(),
  // so the peer simply asks again.
  virtual absl::StatusOr<v1::ReportResponse> Post(engine::Event event) = 0;

  // A client's message in a secure round (SecureExchange). Its masked vector
  // has been uploaded into the blob store before; it is added to the sum at
  // once and the blob removed. The answer, if there is one already; if not,
  // hooks.send_secure will bring it. To be repeated until there is an answer:
  // repeating changes nothing. A masked vector that comes too late, or was
  // added before, is removed.
  //
  // Errors: ABORTED if the attempt is over for this client, or goes on without
  //   it; INVALID_ARGUMENT or PERMISSION_DENIED for a message that is broken
  //   or not its own, or whose digest is not in its one spelling
  //   (store::IsDigestText()); FAILED_PRECONDITION for one that is not its
  //   turn; NOT_FOUND for a masked vector that was not uploaded; UNAVAILABLE as
  //   for Post().
  virtual absl::StatusOr<absl::optional<v1::SecureServerMessage>> PostSecure(
      const std::string& client, const v1::SecureExchangeRequest& request);

  // What is posted from now on arrived at `at`: deadlines are measured by that
  // time, not by when its turn came, as long as it is not in the future.
  virtual void ArrivedAt(absl::Time) {}

  // When Poll() wants to be called next, if at all.
  virtual absl::optional<absl::Time> next_wakeup() const = 0;
  // Fires the timer if it is due, and retries a persist that failed.
  virtual absl::Status Poll() = 0;

  virtual engine::Progress progress() const = 0;
  virtual const engine::JobFacts& facts() const = 0;
  virtual bool finished() const = 0;
};

}  // namespace choir::runner

#endif  // CHOIR_COORDINATOR_RUNNER_JOB_RUNNER_H_
