// Digests. OpenSSL stays behind this folder.
#ifndef STRATA_COMMON_SECURE_DIGEST_H_
#define STRATA_COMMON_SECURE_DIGEST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace strata::secure {

// 32 raw bytes.
std::string Sha256(std::span<const std::byte> data);
std::string Sha256(std::string_view data);

class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(Sha256Stream&&) noexcept;
  Sha256Stream& operator=(Sha256Stream&&) noexcept;
  void Update(std::span<const std::byte> data);
  std::string Finish();  // 32 raw bytes; the stream is used up

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string ToHex(std::string_view bytes);
// Empty when `hex` is no hexadecimal of even length.
std::string FromHex(std::string_view hex);

// CRC-32C (Castagnoli), SSE4.2 where the processor has it. Crc32c(b, Crc32c(a)) = Crc32c(a + b).
uint32_t Crc32c(std::span<const std::byte> data, uint32_t crc = 0);
// The same without the instruction: what processors without SSE4.2 run.
uint32_t Crc32cPortable(std::span<const std::byte> data, uint32_t crc = 0);

}  // namespace strata::secure

#endif  // STRATA_COMMON_SECURE_DIGEST_H_
