// The Listener as a JavaScript object. src/listener.ts has the only one of these for each listening socket.
#pragma once

#include <napi.h>

#include "listener.h"

class ListenerHandle : public Napi::ObjectWrap<ListenerHandle> {
 public:
  static void define(Napi::Env env, Napi::Object exports);

  explicit ListenerHandle(const Napi::CallbackInfo& info)
      : ObjectWrap(info), context_(info.Env(), "async-accept", resource(info)) {}
  ~ListenerHandle() override;

  // That in which the listener was made: handlers of its events run in it, as those of a net.Server do.
  napi_async_context context() const { return context_; }

  // An object in use cannot be collected.
  void hold(bool in_use);

  // The listener is closed, or about to be.
  void forget();

 private:
  // The context's resource lives as long as this object, and does not keep it alive: some versions of Node hold a
  // resource weakly, others not.
  static Napi::Object resource(const Napi::CallbackInfo& info);

  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value ask(const Napi::CallbackInfo& info);
  Napi::Value cancel(const Napi::CallbackInfo& info);
  Napi::Value outstanding(const Napi::CallbackInfo& info);
  Napi::Value pending(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value detach(const Napi::CallbackInfo& info);
  void keep_alive(const Napi::CallbackInfo& info);
  void set_held(const Napi::CallbackInfo& info);

  Napi::AsyncContext context_;
  Listener* listener_ = nullptr;  // null before open and after close
  Listener::Stats last_stats_ = {};
};
