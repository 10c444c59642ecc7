// Who shares with whom in a session.
//
// Small sessions use the complete graph, large ones a Harary graph: all clients
// stand in a ring, in an order that nobody chooses, and each is joined to the
// degree / 2 next ones on both sides. The order is a permutation drawn from a
// digest of session and roster, so that every client computes its own
// neighbours and takes no others.
//
// Source: Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic
//         Overhead" (CCS 2020), section 3.
#ifndef CHOIR_PRIVACY_SECAGG_GRAPH_H_
#define CHOIR_PRIVACY_SECAGG_GRAPH_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::secagg {

// Threads: const methods are safe. Memory: two numbers per client, or none for
// the complete graph.
class Graph {
 public:
  // `seed`: the permutation follows from it (transcript.h: GraphSeed()).
  // INVALID_ARGUMENT unless 2 <= num_clients, and degree is num_clients - 1 or
  // even, positive and below it.
  static absl::StatusOr<Graph> Create(int num_clients, int degree,
                                      absl::string_view seed);

  int num_clients() const { return num_clients_; }
  int degree() const { return degree_; }
  bool complete() const { return degree_ == num_clients_ - 1; }

  // Positions, ascending, `degree` of them; never `position` itself.
  std::vector<int> NeighboursOf(int position) const;
  bool AreNeighbours(int a, int b) const;

  // Who holds shares of a client's secrets, ascending: its neighbours, and in
  // the complete graph the client itself. A holder's share is that at the
  // point of its position plus one.
  std::vector<int> HoldersOf(int position) const;

 private:
  Graph(int num_clients, int degree)
      : num_clients_(num_clients), degree_(degree) {}

  int num_clients_;
  int degree_;
  // Client at each place of the ring, and place of each client.
  std::vector<uint32_t> ring_;
  std::vector<uint32_t> place_;
};

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_GRAPH_H_
