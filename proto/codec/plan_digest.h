// Digests of what a task's plan asks for, that client and coordinator compute
// alike: a secure round's keys are derived from them, so that only clients who
// were told the same are summed.
#ifndef CHOIR_PROTO_CODEC_PLAN_DIGEST_H_
#define CHOIR_PROTO_CODEC_PLAN_DIGEST_H_

#include <string>

#include "choir/v1/coordinator.pb.h"
#include "google/protobuf/message.h"

namespace choir::codec {

// Both are SHA-256 in hexadecimal, of CanonicalText() of some of the plan's
// fields, behind a line that says which. What differs from client to client
// (seed, time left) and what the session binds by itself (job, round, attempt)
// is left out.

// Of "choir model 1\n", base_model, adapter and layout_digest: where the round
// starts from.
std::string ModelDigest(const v1::TaskPlan& plan);
// Of "choir settings 1\n", the task's kind, adapter_config, training,
// aggregation and secure_aggregation: what is done with it.
std::string ConfigDigest(const v1::TaskPlan& plan);

// A line for each field that is set, in order of field numbers, elements of a
// list in their order:
//
//   line   = path "=" value "\n"
//   path   = name *( "." name )         ; an element of a list: name[3]
//   value  = integers in decimal; doubles as the 16 hexadecimal digits of their
//            IEEE 754 bits; booleans 0 or 1; texts and bytes as their length in
//            bytes, ":" and the bytes themselves; enumerations by number
//
// Messages have no line of their own. A field that this program does not know
// has no line either: a peer that knows it gets another digest.
std::string CanonicalText(const google::protobuf::Message& message);

}  // namespace choir::codec

#endif  // CHOIR_PROTO_CODEC_PLAN_DIGEST_H_
