// CHOIR_CHECK ends the process when one of our own invariants is broken. It is
// never used for what a peer, a file, a flag, the clock or a user can cause.
#ifndef CHOIR_BASE_CHECK_H_
#define CHOIR_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define CHOIR_CHECK(condition)                                         \
  do {                                                                 \
    if (!(condition)) {                                                \
      std::fprintf(stderr, "%s:%d: bug: check failed: %s\n", __FILE__, \
                   __LINE__, #condition);                              \
      std::abort();                                                    \
    }                                                                  \
  } while (false)

#endif  // CHOIR_BASE_CHECK_H_
