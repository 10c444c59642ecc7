#include "privacy/secagg/parameters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace choir::secagg {
namespace {

constexpr int kMaxClients = 1000000;
// Fractions such as 0.29 * 100 must not fall below the integer they stand for.
constexpr double kSlack = 1e-14;
// Terms this small beside the sum change nothing.
constexpr double kNegligible = 1e-18;

int CountOf(double fraction, int n) {
  return static_cast<int>(std::floor((fraction + kSlack) * n));
}

// Those who collude are counted up, and if any are assumed at all, there is
// one.
int CorruptOf(const v1::SecureAssumptions& assumptions, int n) {
  if (assumptions.corrupt_fraction() <= 0) return 0;
  return std::max(1, static_cast<int>(std::ceil(
                         (assumptions.corrupt_fraction() - kSlack) * n)));
}

double LogChoose(double n, double k) {
  return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1);
}

// How many of k drawn from n are among the m marked ones.
class Hypergeometric {
 public:
  Hypergeometric(int n, int m, int k)
      : n_(n), m_(m), k_(k), log_all_(LogChoose(n, k)) {}

  // The smallest x with Pr[X > x] <= e^log_p; log_p is far below the middle.
  int UpperQuantile(double log_p) const {
    int low = Mode();
    int high = std::min(m_, k_);
    while (low < high) {
      const int x = low + (high - low) / 2;
      if (LogAbove(x) <= log_p) {
        high = x;
      } else {
        low = x + 1;
      }
    }
    return low;
  }

  // Pr[X >= x].
  double AtLeast(int x) const {
    double sum = 0.0;
    for (int i = std::max(x, Least()); i <= std::min(m_, k_); ++i) {
      sum += std::exp(LogProbability(i));
    }
    return std::min(sum, 1.0);
  }

  // The smallest x with Pr[X <= x] >= e^log_p.
  int LowerQuantile(double log_p) const {
    int low = Least();
    int high = Mode();
    while (low < high) {
      const int x = low + (high - low) / 2;
      if (LogUpTo(x) >= log_p) {
        high = x;
      } else {
        low = x + 1;
      }
    }
    return low;
  }

 private:
  int Least() const { return std::max(0, k_ - (n_ - m_)); }
  int Mode() const {
    return static_cast<int>((k_ + 1.0) * (m_ + 1.0) / (n_ + 2.0));
  }
  double LogProbability(int x) const {
    return LogChoose(m_, x) + LogChoose(n_ - m_, k_ - x) - log_all_;
  }
  // Pr[X = x + 1] / Pr[X = x].
  double Ratio(int x) const {
    return static_cast<double>(m_ - x) * (k_ - x) /
           ((x + 1.0) * (static_cast<double>(n_ - m_) - k_ + x + 1.0));
  }

  // log Pr[X > x], x at or above the mode: terms fall from x + 1 on.
  double LogAbove(int x) const {
    const int most = std::min(m_, k_);
    if (x >= most) return -std::numeric_limits<double>::infinity();
    double sum = 1.0;
    double term = 1.0;
    for (int i = x + 1; i < most && term > kNegligible * sum; ++i) {
      term *= Ratio(i);
      sum += term;
    }
    return LogProbability(x + 1) + std::log(sum);
  }

  // log Pr[X <= x], x at or below the mode: terms fall from x down.
  double LogUpTo(int x) const {
    double sum = 1.0;
    double term = 1.0;
    for (int i = x; i > Least() && term > kNegligible * sum; --i) {
      term /= Ratio(i - 1);
      sum += term;
    }
    return LogProbability(x) + std::log(sum);
  }

  int n_;
  int m_;
  int k_;
  double log_all_;
};

// An upper bound on the probability, as a logarithm, that removing `removed`
// clients cuts a random Harary graph in two: two gaps of k / 2 successive
// clients each would be needed.
double LogDisconnected(int n, int k, int removed) {
  if (k > removed) return -std::numeric_limits<double>::infinity();
  const double pairs = std::log(n) + std::log(n - k - 1) - std::log(2);
  return pairs + std::lgamma(removed + 1.0) + std::lgamma(n - k + 1.0) -
         std::lgamma(n + 1.0) - std::lgamma(removed - k + 1.0);
}

absl::Status CheckFractions(double corrupt, double dropout) {
  const auto out_of_range = [](double f) { return !(f >= 0 && f < 0.9); };
  if (!out_of_range(corrupt) && !out_of_range(dropout)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("corrupt_fraction is ", corrupt, " and dropout_fraction ",
                   dropout, "; each must be at least 0 and less than 0.9"));
}

// What may be assumed of a session.
absl::Status CheckAssumptions(const v1::SecureAssumptions& assumptions) {
  const double corrupt = assumptions.corrupt_fraction();
  const double dropout = assumptions.dropout_fraction();
  const v1::SecureAssumptions::Adversary adversary = assumptions.adversary();
  CHOIR_RETURN_IF_ERROR(CheckFractions(corrupt, dropout));
  if (adversary == v1::SecureAssumptions::CURIOUS) {
    if (corrupt + dropout <= 0.9) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "corrupt_fraction + dropout_fraction is ", corrupt + dropout,
        "; against a curious coordinator it may be at most 0.9"));
  }
  if (adversary == v1::SecureAssumptions::SEMI_MALICIOUS) {
    if (corrupt + 2 * dropout <= 0.9) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "corrupt_fraction + 2 * dropout_fraction is ", corrupt + 2 * dropout,
        "; against a semi-malicious coordinator it may be at most 0.9; lower "
        "one of them, or assume adversary = \"curious\""));
  }
  return absl::InvalidArgumentError(
      "the adversary must be \"curious\" or \"semi_malicious\"");
}

// The threshold for degree k, or 0 if k does not do.
int ThresholdFor(int n, int k, int corrupt, int dropped, double log_security,
                 double log_correctness, bool semi_malicious) {
  if (LogDisconnected(n, k, corrupt + dropped) >= log_security) return 0;
  // More than t1 of a client's neighbours are corrupt, or at most t2 survive,
  // with negligible probability for each of n clients.
  double t1 =
      Hypergeometric(n, corrupt, k).UpperQuantile(log_security - std::log(n));
  const int t2 = Hypergeometric(n, n - dropped, k)
                     .LowerQuantile(log_correctness - std::log(n));
  // Honest neighbours hand over one kind of share each, corrupt ones both.
  if (semi_malicious) t1 = std::ceil((t1 + k - 1.25) / 2);
  if (t1 >= t2) return 0;
  return std::max(static_cast<int>(t1) + 1, 2);
}

absl::Status TooSmall(int n, const v1::SecureAssumptions& assumptions,
                      absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      n, " clients are too few for secure aggregation with corrupt_fraction ",
      assumptions.corrupt_fraction(), " and dropout_fraction ",
      assumptions.dropout_fraction(), ": ", why,
      "; take a larger cohort, or lower one of the fractions"));
}

// Everybody shares with everybody, itself included: n shares of each secret.
absl::StatusOr<Parameters> CompleteGraph(
    int n, int corrupt, int dropped, const v1::SecureAssumptions& assumptions) {
  const bool semi_malicious =
      assumptions.adversary() == v1::SecureAssumptions::SEMI_MALICIOUS;
  Parameters parameters;
  parameters.num_clients = n;
  parameters.degree = n - 1;
  // What safety needs: corrupt clients cannot reconstruct alone; if the
  // coordinator tells clients different things, honest ones give one kind of
  // share each and corrupt ones both, and 2t shares must be out of reach.
  const int least =
      std::max(2, semi_malicious ? (n + corrupt) / 2 + 1 : corrupt + 1);
  // What dropouts leave.
  const int most = n - dropped;
  if (least > most) {
    return TooSmall(
        n, assumptions,
        absl::StrCat(least, " of ", n, " shares must be needed, and only ",
                     most, " are certain to be left"));
  }
  const int wanted = semi_malicious ? 2 * n / 3 + 1 : n / 2 + 1;
  parameters.threshold = std::clamp(wanted, least, most);
  // No smaller sum than what the assumed dropouts leave.
  parameters.min_survivors = most;
  return parameters;
}

// FindGraph() with whole clients; the fractions are for its error.
absl::StatusOr<GraphParameters> SearchGraph(
    int n, int corrupt, double corrupt_fraction, double dropout_fraction,
    v1::SecureAssumptions::Adversary adversary, int security_bits = 40,
    int correctness_bits = 20) {
  const int survivors =
      static_cast<int>(std::ceil((1 - dropout_fraction - kSlack) * n));
  // Half of the chance goes to each of the two bad events.
  const double log_security = -(security_bits + 1) * std::log(2.0);
  const double log_correctness = -correctness_bits * std::log(2.0);
  const bool semi_malicious =
      adversary == v1::SecureAssumptions::SEMI_MALICIOUS;
  for (int k = 2; k < n - 1; k += 2) {
    const int threshold =
        ThresholdFor(n, k, corrupt, n - survivors, log_security,
                     log_correctness, semi_malicious);
    if (threshold > 0) return GraphParameters{k, threshold};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no graph of ", n, " clients withstands corrupt_fraction ",
                   corrupt_fraction, " and dropout_fraction ", dropout_fraction,
                   "; take a larger cohort, or lower one of them"));
}

// "... 10 % of <whom> colluding with it, ...".
std::string Text(const Parameters& parameters,
                 const v1::SecureAssumptions& assumptions,
                 absl::string_view whom) {
  const bool semi_malicious =
      assumptions.adversary() == v1::SecureAssumptions::SEMI_MALICIOUS;
  return absl::StrFormat(
      "%d clients, each sharing with %s%d others; %d shares reconstruct; at "
      "least %d must survive; assumed: a %s coordinator, %g %% of %s "
      "colluding with it, %g %% dropping out, no sum of fewer than %d",
      parameters.num_clients, parameters.complete() ? "all " : "",
      parameters.degree, parameters.threshold, parameters.min_survivors,
      semi_malicious ? "semi-malicious" : "curious",
      100 * assumptions.corrupt_fraction(), whom,
      100 * assumptions.dropout_fraction(),
      std::max<uint32_t>(assumptions.min_clients(), kMinCohort));
}

}  // namespace

int AccusersNeeded(const Parameters& parameters,
                   const v1::SecureAssumptions& assumptions) {
  const int n = parameters.num_clients;
  int most = std::min(CorruptOf(assumptions, n), n - 1);
  if (parameters.degree < n - 1) {
    // The accused is honest, or nobody is wronged; the others are drawn.
    const double log_p = -40 * std::log(2.0) - std::log(n);
    most = Hypergeometric(n - 1, most, parameters.degree).UpperQuantile(log_p);
  }
  return std::max(most, 1) + 1;
}

absl::StatusOr<GraphParameters> FindGraph(
    int num_clients, double corrupt_fraction, double dropout_fraction,
    v1::SecureAssumptions::Adversary adversary, int security_bits,
    int correctness_bits) {
  const int n = num_clients;
  CHOIR_RETURN_IF_ERROR(CheckFractions(corrupt_fraction, dropout_fraction));
  if (n < 1 || n > kMaxClients) {
    return absl::InvalidArgumentError(absl::StrCat(
        n, " clients; a graph has 1 to ", kMaxClients, " of them"));
  }
  return SearchGraph(n, CountOf(corrupt_fraction, n), corrupt_fraction,
                     dropout_fraction, adversary, security_bits,
                     correctness_bits);
}

absl::StatusOr<Parameters> ChooseParameters(
    int num_clients, const v1::SecureAssumptions& assumptions) {
  const int n = num_clients;
  CHOIR_RETURN_IF_ERROR(CheckAssumptions(assumptions));
  const int floor =
      std::max(kMinCohort, static_cast<int>(std::min<uint32_t>(
                               assumptions.min_clients(), kMaxClients + 1)));
  if (n < floor || n > kMaxClients) {
    return absl::InvalidArgumentError(absl::StrCat(
        n, " clients; secure aggregation takes ", floor, " to ", kMaxClients,
        "; the least is min_clients, and never less than ", kMinCohort));
  }
  const int corrupt = CorruptOf(assumptions, n);
  const int dropped = CountOf(assumptions.dropout_fraction(), n);
  Parameters parameters;
  if (n < kMinGraphCohort) {
    CHOIR_ASSIGN_OR_RETURN(parameters,
                           CompleteGraph(n, corrupt, dropped, assumptions));
  } else {
    CHOIR_ASSIGN_OR_RETURN(
        const GraphParameters graph,
        SearchGraph(n, corrupt, assumptions.corrupt_fraction(),
                    assumptions.dropout_fraction(), assumptions.adversary()));
    if (graph.degree > kMaxDegree) {
      return absl::InvalidArgumentError(
          absl::StrCat(n, " clients would have to share with ", graph.degree,
                       " others each; messages have room for ", kMaxDegree,
                       "; take smaller cohorts or groups, or assume less"));
    }
    parameters.num_clients = n;
    parameters.degree = graph.degree;
    parameters.threshold = graph.threshold;
    // With more dropouts the survivors' graph might fall apart, and the sums
    // of its parts be revealed.
    parameters.min_survivors = std::max(n - dropped, graph.threshold + 1);
  }
  parameters.min_survivors = std::max(parameters.min_survivors, floor);
  return parameters;
}

std::string Describe(const Parameters& parameters,
                     const v1::SecureAssumptions& assumptions) {
  return Text(parameters, assumptions, "the clients");
}

GroupRisk RiskOfGroup(const Parameters& parameters,
                      const v1::SecureAssumptions& assumptions, int cohort) {
  const int n = parameters.num_clients;
  GroupRisk risk;
  if (n > cohort) return risk;
  const Hypergeometric drawn(cohort, CorruptOf(assumptions, cohort), n);
  risk.more_than_assumed = drawn.AtLeast(CorruptOf(assumptions, n) + 1);
  if (!parameters.complete()) return risk;
  const bool semi_malicious =
      assumptions.adversary() == v1::SecureAssumptions::SEMI_MALICIOUS;
  const int t = parameters.threshold;
  risk.enough_to_unmask = drawn.AtLeast(semi_malicious ? 2 * t - n : t);
  return risk;
}

std::string DescribeGroup(const Parameters& parameters,
                          const v1::SecureAssumptions& assumptions,
                          int cohort) {
  std::string text = Text(parameters, assumptions, "each group's clients");
  const GroupRisk risk = RiskOfGroup(parameters, assumptions, cohort);
  absl::StrAppendFormat(
      &text,
      "; if %g %% of all %d collude, a group drawn at random has more of them "
      "with probability %.2g",
      100 * assumptions.corrupt_fraction(), cohort, risk.more_than_assumed);
  if (risk.enough_to_unmask.has_value()) {
    absl::StrAppendFormat(&text,
                          ", and enough of them to unmask one client with "
                          "probability %.2g",
                          *risk.enough_to_unmask);
  }
  return text;
}

}  // namespace choir::secagg
