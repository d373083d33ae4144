// A Listener as a JavaScript object. Only src/accept/listener.ts creates these objects, one for each listening socket.
#pragma once

#include <napi.h>

#include "addon.h"
#include "listener.h"

class ListenerHandle final : public Napi::ObjectWrap<ListenerHandle>, public ListenerObject {
 public:
  static void define(Napi::Env env, Napi::Object exports);

  explicit ListenerHandle(const Napi::CallbackInfo& info)
      : ObjectWrap(info), context_(info.Env(), "async-accept", resource(info)) {}
  ~ListenerHandle() override;

  napi_async_context context() const override { return context_; }
  napi_value value() const override { return Value(); }
  void hold(bool in_use) override;
  void forget() override;

 private:
  // Creates the resource of the async context. Some versions of Node refer to a resource weakly, so this object refers
  // to it too. Other versions refer to it strongly, so the resource must not refer to this object and keep it alive.
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
