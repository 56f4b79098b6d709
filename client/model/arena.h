// Memory for activations: taken in order, given back all at once or down to a mark, kept between steps so that its
// pages are touched only once.
#ifndef STRATA_CLIENT_MODEL_ARENA_H_
#define STRATA_CLIENT_MODEL_ARENA_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace strata::model {

// `bytes` of memory that asks for huge pages on the CPU; frees itself with the tensor.
at::Tensor AllocateBytes(size_t bytes, at::Device device);
// The calling thread's memory for one kernel's packed operands: the next call overwrites it. Grows and stays.
void* Workspace(int64_t bytes);

// Not thread-safe. Tensors taken are uninitialised and valid until the arena falls below where they lie.
class Arena {
 public:
  explicit Arena(at::Device device) : device_(device) {}

  struct Mark {
    size_t block = 0, offset = 0;
    size_t taken = 0;  // bytes in all that lie below
  };
  at::Tensor Take(at::IntArrayRef shape, at::ScalarType type);
  Mark mark() const { return top_; }
  void Release(Mark mark) { top_ = mark; }
  // Releases everything. What had to be fetched piece by piece becomes one piece, of as much as was ever taken at once:
  // steps of unequal sizes would leave gaps of unequal sizes.
  void Reset();
  size_t capacity_bytes() const;
  // Changes whenever memory comes or goes: what was recorded of places before is void.
  uint64_t generation() const { return generation_; }

 private:
  at::Device device_;
  std::vector<at::Tensor> blocks_;
  Mark top_;
  size_t most_taken_ = 0;
  uint64_t generation_ = 0;
};

// Releases what was taken from the arena since its construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.Release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_ARENA_H_
