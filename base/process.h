// Settings of a whole process.
#ifndef CHOIR_BASE_PROCESS_H_
#define CHOIR_BASE_PROCESS_H_

namespace choir::base {

// To be called first in main() of a program that moves large payloads.
//
// Freed memory is kept for the next chunk, up to some tens of MiB: given back
// to the system at every chunk, as is the C library's habit, it costs a page
// fault for each 4 KiB that arrives. Abseil's search for deadlocks, on in
// Debian's build of it, is switched off: gRPC locks at every frame.
void PrepareProcess();

}  // namespace choir::base

#endif  // CHOIR_BASE_PROCESS_H_
