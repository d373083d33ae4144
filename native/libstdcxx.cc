// What the libstdc++ of an older machine lacks: a binary that GCC 11 or later compiled would ask for GLIBCXX_3.4.29,
// though Node itself is content with 3.4.21.
#include <new>

#ifdef __GLIBCXX__
// NOLINTBEGIN(cert-dcl37-c, cert-dcl51-cpp, cert-dcl58-cpp, bugprone-reserved-identifier): by this name and there, or
// it is not found
namespace std {

// Containers call it when a size overflows.
[[noreturn]] __attribute__((visibility("hidden"))) void __throw_bad_array_new_length() { throw bad_array_new_length(); }

}  // namespace std
// NOLINTEND(cert-dcl37-c, cert-dcl51-cpp, cert-dcl58-cpp, bugprone-reserved-identifier)
#endif
