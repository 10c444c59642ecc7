// Degree and threshold of a secure aggregation, from what is assumed of its
// clients.
//
// Source: Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic
//         Overhead" (CCS 2020), by exact hypergeometric tails instead of the
//         paper's bounds.
#ifndef CHOIR_PRIVACY_SECAGG_PARAMETERS_H_
#define CHOIR_PRIVACY_SECAGG_PARAMETERS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "choir/v1/secagg.pb.h"

namespace choir::secagg {

// The smallest group that is summed at all.
inline constexpr int kMinCohort = 3;
// Below, everybody shares with everybody; from here on, with `degree` others.
inline constexpr int kMinGraphCohort = 64;
// The shares that a client hands out travel in one message of 512 KiB at most.
inline constexpr int kMaxDegree = 5000;

struct Parameters {
  int num_clients = 0;  // n
  // k neighbours hold shares of a client's secrets; n - 1 is the complete
  // graph, in which the client itself holds one too.
  int degree = 0;
  int threshold = 0;  // t shares give a secret back
  // Survivors needed before anything is unmasked: all but the assumed dropouts,
  // and never fewer than `threshold` or min_clients.
  int min_survivors = 0;
  bool complete() const { return degree == num_clients - 1; }
};

// The k-regular graph alone: the smallest even degree for which, but for a
// chance of 2^-security_bits, the adversary neither learns a secret nor cuts
// the survivors apart, and, but for a chance of 2^-correctness_bits, every
// secret can be reconstructed.
// Errors: INVALID_ARGUMENT if there is none, or a fraction is not in [0, 0.9).
struct GraphParameters {
  int degree = 0;
  int threshold = 0;
};
absl::StatusOr<GraphParameters> FindGraph(
    int num_clients, double corrupt_fraction, double dropout_fraction,
    v1::SecureAssumptions::Adversary adversary, int security_bits = 40,
    int correctness_bits = 20);

// What a session of `num_clients` uses: the complete graph for small cohorts,
// FindGraph() above, with floors for both: those who collude are counted up to
// whole clients (one at least, if any are assumed), dropouts down. Clients
// compute it themselves and refuse anything else.
// Errors: INVALID_ARGUMENT naming the value, the limit and the remedy if the
//   cohort is too small for the assumptions, or these are too much for any
//   (curious: corrupt + dropout > 0.9; semi-malicious: corrupt + 2 dropout).
absl::StatusOr<Parameters> ChooseParameters(
    int num_clients, const v1::SecureAssumptions& assumptions);

// How many members of a session must say that they cannot use a peer's keys
// before it is believed: one more than collude under the assumptions, and never
// one alone. Only those who share with the peer can know: in a large cohort one
// more than collude among its neighbours, but for one chance in 2^40 for all
// clients of the session together.
int AccusersNeeded(const Parameters& parameters,
                   const v1::SecureAssumptions& assumptions);

// "64 clients, each sharing with 22 others; 15 shares reconstruct; ...": the
// parameters and the assumptions behind them, for logs and people.
std::string Describe(const Parameters& parameters,
                     const v1::SecureAssumptions& assumptions);

// The assumptions hold for each session. Of groups that is for each group,
// which is more than the same fraction of a cohort: if corrupt_fraction of a
// cohort of `cohort` clients collude, and one of its groups is drawn at random,
// these are the chances of that group. (The coordinator draws groups.)
struct GroupRisk {
  // That more of it collude than its parameters withstand with certainty.
  double more_than_assumed = 0.0;
  // That enough of it collude to learn both secrets of one of the others; only
  // of complete graphs.
  absl::optional<double> enough_to_unmask;
};
GroupRisk RiskOfGroup(const Parameters& parameters,
                      const v1::SecureAssumptions& assumptions, int cohort);

// Describe() of a group, with its risk.
std::string DescribeGroup(const Parameters& parameters,
                          const v1::SecureAssumptions& assumptions, int cohort);

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_PARAMETERS_H_
