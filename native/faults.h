// Faults on request, for tests: in builds with the gyp variable `faults` only.
#pragma once

#include <napi.h>

namespace faults {

// `faults` on the binding: plan(call, first, times, errno) lets the calls of that name from the `first`th on fail, so
// many times; clear() ends that; made() says how often each was called since, and failed() how many of them failed.
void define(Napi::Env env, Napi::Object exports);

}  // namespace faults
