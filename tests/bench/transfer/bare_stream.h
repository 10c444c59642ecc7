// The least that gRPC streaming over TLS can be: a server that sends one buffer
// in chunks, a client that throws them away. What Choir's transfers are
// measured against.
#ifndef CHOIR_TESTS_BENCH_TRANSFER_BARE_STREAM_H_
#define CHOIR_TESTS_BENCH_TRANSFER_BARE_STREAM_H_

#include <cstdint>
#include <string>

namespace choir::bench {

struct TlsFiles {
  std::string ca_certificate;
  std::string certificate;
  std::string private_key;
};

// Serves until the process is killed; writes its port to `port_file`.
int ServeBareStream(const TlsFiles& tls, uint64_t bytes, uint64_t chunk_bytes,
                    const std::string& port_file);

// Seconds that a call on an open connection takes to receive `bytes` from a bare
// server, and to write and hash them if `file` is not empty.
double ReadBareStream(const TlsFiles& tls, const std::string& address,
                      uint64_t bytes, const std::string& file);

}  // namespace choir::bench

#endif  // CHOIR_TESTS_BENCH_TRANSFER_BARE_STREAM_H_
