// The program of exec_helper.c, which the addon carries in itself: a second file would get lost in bundles and copies.
#pragma once

#include <cstddef>
#include <cstdint>

namespace exec_helper {

const uint8_t* image();
size_t size();

// An fd of the program, in memory, close-on-exec and at least `lowest`; or a negative errno. `/proc/self/fd/<fd>` can
// be executed when it succeeds.
int open(int lowest);

}  // namespace exec_helper
