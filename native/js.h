// Converts between C++ and JavaScript values. Checks types only as far as memory safety requires. TypeScript documents
// and checks what an argument may be.
#pragma once

#include <errno.h>
#include <napi.h>

#include <cmath>
#include <cstdint>
#include <new>
#include <string>

namespace js {

[[noreturn]] inline void throw_type_error(Napi::Env env, const char* expected) {
  Napi::TypeError error = Napi::TypeError::New(env, expected);
  error.Set("code", "ERR_INVALID_ARG_TYPE");
  throw error;
}

inline double to_double(const Napi::Value& value) {
  if (!value.IsNumber()) throw_type_error(value.Env(), "expected a number");
  return value.As<Napi::Number>().DoubleValue();
}

inline int64_t to_integer(const Napi::Value& value) {
  constexpr double kMaxSafe = 9007199254740991;
  double number = to_double(value);
  if (!(std::fabs(number) <= kMaxSafe) || std::trunc(number) != number) {
    throw_type_error(value.Env(), "expected a safe integer");
  }
  return static_cast<int64_t>(number);
}

inline int to_int(const Napi::Value& value) {
  int64_t number = to_integer(value);
  if (number < INT32_MIN || number > INT32_MAX) throw_type_error(value.Env(), "expected a 32-bit integer");
  return static_cast<int>(number);
}

inline bool to_bool(const Napi::Value& value) {
  if (!value.IsBoolean()) throw_type_error(value.Env(), "expected a boolean");
  return value.As<Napi::Boolean>();
}

inline std::string to_string(const Napi::Value& value) {
  if (!value.IsString()) throw_type_error(value.Env(), "expected a string");
  return value.As<Napi::String>();
}

// The bytes of a Uint8Array. Valid until JavaScript runs.
struct Bytes {
  const uint8_t* data;
  size_t length;
};

inline Bytes to_bytes(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw_type_error(value.Env(), "expected a Uint8Array");
  }
  auto bytes = value.As<Napi::Uint8Array>();
  return {bytes.Data(), bytes.ByteLength()};
}

inline Napi::Value number(const Napi::CallbackInfo& info, double value) { return Napi::Number::New(info.Env(), value); }

// Returns the result of `run`, or -ENOMEM, like a failed system call, if memory runs out.
template <typename Run>
Napi::Value or_enomem(const Napi::CallbackInfo& info, Run run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return number(info, -ENOMEM);
  }
}

using Function = Napi::Value (*)(const Napi::CallbackInfo&);

inline void define(Napi::Object exports, const char* name, Function function) {
  auto call = [function](const Napi::CallbackInfo& info) { return or_enomem(info, [&] { return function(info); }); };
  exports.Set(name, Napi::Function::New(exports.Env(), call, name));
}

}  // namespace js
