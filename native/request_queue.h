// The FIFO of accept requests. Each has a ref, by which it is cancelled and timed out without a search.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>

class RequestQueue {
 public:
  // A safe integer in JavaScript, unique within its listener and never reused: at a million requests a second the
  // 2^53 of them last 285 years. No request has the ref 0.
  using Ref = int64_t;

  static constexpr uint64_t kNoDeadline = UINT64_MAX;

  // Deadlines are in milliseconds, on whatever clock the caller keeps.
  Ref push(uint64_t deadline) {
    Ref ref = last_ref_ + 1;
    Request& request = requests_[ref];
    request.expiry = deadlines_.end();
    if (deadline != kNoDeadline) {
      try {
        // Equal timeouts give rising deadlines, so the end is nearly always the right place.
        request.expiry = deadlines_.emplace_hint(deadlines_.end(), deadline, ref);
      } catch (...) {
        requests_.erase(ref);
        throw;
      }
    }
    last_ref_ = ref;
    request.ref = ref;
    request.previous = tail_;
    (tail_ != nullptr ? tail_->next : head_) = &request;
    tail_ = &request;
    return ref;
  }

  // False when the ref is not outstanding.
  bool remove(Ref ref) {
    auto found = requests_.find(ref);
    if (found == requests_.end()) return false;
    Request& request = found->second;
    if (request.expiry != deadlines_.end()) deadlines_.erase(request.expiry);
    (request.previous != nullptr ? request.previous->next : head_) = request.next;
    (request.next != nullptr ? request.next->previous : tail_) = request.previous;
    requests_.erase(found);
    return true;
  }

  // The oldest request; the queue must not be empty.
  Ref front() const { return head_->ref; }

  Ref pop() {
    Ref ref = front();
    remove(ref);
    return ref;
  }

  // The request that runs out first, no later than `now`; 0 when there is none.
  Ref pop_expired(uint64_t now) {
    if (next_deadline() > now || deadlines_.empty()) return 0;
    Ref ref = deadlines_.begin()->second;
    remove(ref);
    return ref;
  }

  uint64_t next_deadline() const { return deadlines_.empty() ? kNoDeadline : deadlines_.begin()->first; }

  // The newest ref that was ever given out.
  Ref last_ref() const { return last_ref_; }

  // Oldest first.
  template <typename Visit>
  void each(Visit visit) const {
    for (const Request* request = head_; request != nullptr; request = request->next) visit(request->ref);
  }

  bool empty() const { return requests_.empty(); }
  size_t size() const { return requests_.size(); }

 private:
  using Deadlines = std::multimap<uint64_t, Ref>;

  struct Request {
    Ref ref = 0;
    Request* previous = nullptr;
    Request* next = nullptr;
    Deadlines::iterator expiry;
  };

  // The map's nodes stay where they are, so the list can go through them: one allocation for a request, two for one
  // with a deadline.
  std::unordered_map<Ref, Request> requests_;
  Deadlines deadlines_;
  Request* head_ = nullptr;
  Request* tail_ = nullptr;
  Ref last_ref_ = 0;
};
