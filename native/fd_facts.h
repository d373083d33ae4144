// What JavaScript can learn of an fd by its number, and the constants to ask with.
#pragma once

#include <napi.h>

namespace fd_facts {

void define(Napi::Object exports);

}
