// Functions that wait on an fd, read from it, and send and receive messages, by its number.
#pragma once

#include <napi.h>

namespace fd_io {

void define(Napi::Object exports);

}
