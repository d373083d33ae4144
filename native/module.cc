// The entry point, which Node calls when a thread loads the addon.
#include <napi.h>

#include "addon.h"
#include "fd_facts.h"
#include "fd_functions.h"
#include "fd_io.h"
#include "listener_handle.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  ListenerHandle::define(env, exports);
  fd_facts::define(exports);
  fd_functions::define(exports);
  fd_io::define(exports);
  env.SetInstanceData(new Addon(env, exports));
  return exports;
}

NODE_API_MODULE(async_accept, init)
