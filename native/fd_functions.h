// What JavaScript can do with an fd by its number: make, adopt, set, give away, close.
#pragma once

#include <napi.h>

namespace fd_functions {

void define(Napi::Object exports);

}
