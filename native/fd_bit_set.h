// A set of file descriptors, with one bit for each.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

class FdBitSet {
 public:
  // Returns false if memory runs out.
  bool add(int fd) noexcept {
    size_t word = static_cast<size_t>(fd) / 64;
    try {
      if (word >= words_.size()) words_.resize(word + 1 + word / 2);
    } catch (const std::bad_alloc&) {
      return false;
    }
    words_[word] |= bit(fd);
    return true;
  }

  bool has(int fd) const {
    size_t word = static_cast<size_t>(fd) / 64;
    return fd >= 0 && word < words_.size() && (words_[word] & bit(fd)) != 0;
  }

  // Returns false if `fd` is not in the set.
  bool remove(int fd) {
    if (!has(fd)) return false;
    words_[static_cast<size_t>(fd) / 64] &= ~bit(fd);
    return true;
  }

  // Calls `visit` with each fd in ascending order, then removes the fd. Skips an fd that an earlier call has removed.
  template <typename Visit>
  void drain(Visit visit) {
    for (size_t word = 0; word < words_.size(); word++) {
      for (; words_[word] != 0; words_[word] &= words_[word] - 1) {
        visit(static_cast<int>(word * 64) + __builtin_ctzll(words_[word]));
      }
    }
  }

 private:
  static uint64_t bit(int fd) { return uint64_t{1} << (fd % 64); }

  std::vector<uint64_t> words_;
};
