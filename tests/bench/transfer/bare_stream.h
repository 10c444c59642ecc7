// The least that gRPC streaming over TLS can be, as its tutorials write it:
// generated synchronous stubs, messages with a `bytes` field of 1 MiB, gRPC's
// own settings but for the largest message; a server that fills each message
// with one letter and a client that throws them away. What Choir's transfers
// are measured against.
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

// What a call on an open connection takes, for the client alone.
struct BareRead {
  double seconds = 0.0;
  double processor_seconds = 0.0;
};

// Receives `bytes` from a bare server, and writes and hashes them if `file` is
// not empty.
BareRead ReadBareStream(const TlsFiles& tls, const std::string& address,
                        uint64_t bytes, const std::string& file);

// Processor time that this process has used so far.
double UsedSeconds();

}  // namespace choir::bench

#endif  // CHOIR_TESTS_BENCH_TRANSFER_BARE_STREAM_H_
