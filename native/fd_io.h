// What JavaScript can do through an fd by its number: wait, read, send and receive messages.
#pragma once

#include <napi.h>

namespace fd_io {

void define(Napi::Object exports);

}
