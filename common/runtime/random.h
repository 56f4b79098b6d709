// Entropy for identities, and the reproducible generator for everything else.
#ifndef STRATA_COMMON_RUNTIME_RANDOM_H_
#define STRATA_COMMON_RUNTIME_RANDOM_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace strata::runtime {

// Unpredictable bytes: ids, nothing that influences a result. Thread-safe. A simulator's draws from its seed.
class Entropy {
 public:
  virtual ~Entropy() = default;
  virtual void Fill(std::span<std::byte> bytes) = 0;
};

// What a stream of random numbers belongs to. Two different keys give independent streams, so that adding a site never
// shifts another's draws.
struct RandomKey {
  std::string_view purpose;  // "lora_init", "shuffle", "dropout"
  uint64_t seed = 0;         // the job's or the run's
  uint64_t round = 0;
  std::string_view site;  // empty outside a federation
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as a pure function of a key and
// an element index. The key is the first 8 bytes (little-endian) of SHA-256 over: length of purpose, purpose, seed,
// round, length of site, site; every integer as 8 bytes, little-endian. Element i is word i % 4 of the block with
// counter i / 4. Bit-equal everywhere. Copyable; const use is thread-safe.
class Philox {
 public:
  explicit Philox(const RandomKey& key);
  explicit Philox(uint64_t key) : key_(key) {}
  // The block of a 128-bit counter (low word first); exposed for test vectors.
  std::array<uint32_t, 4> Block(uint64_t counter_low, uint64_t counter_high = 0) const;
  uint32_t Word(uint64_t index) const;
  // [0, 1), multiples of 2^-24: (word >> 8) * 2^-24.
  float Uniform(uint64_t index) const;
  // Standard normal of element `index`, by integer and IEEE add, mul, sqrt only (Box-Muller in double, rounded once to
  // float): elements 4b+2p and 4b+2p+1 are the cosine and the sine of words 2p and 2p+1 of block b. |value| < 6.7.
  float Normal(uint64_t index) const;
  // [0, bound), unbiased, of element `index`; independent of Word. REQUIRES: bound > 0.
  uint64_t Below(uint64_t index, uint64_t bound) const;
  // A permutation of 0..values.size()-1 written into `values` (Fisher-Yates).
  void Permutation(std::span<uint32_t> values) const;

 private:
  uint64_t key_;
};

}  // namespace strata::runtime

#endif  // STRATA_COMMON_RUNTIME_RANDOM_H_
