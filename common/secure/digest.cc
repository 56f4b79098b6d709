#include "common/secure/digest.h"

#include <openssl/evp.h>

#include <cstdlib>
#include <cstring>
#include <utility>

namespace strata::secure {
namespace {

constexpr size_t kSha256Bytes = 32;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// OpenSSL fails here only when memory ran out or its own configuration is broken; neither comes from input.
void Require(bool ok) {
  if (!ok) std::abort();
}

}  // namespace

struct Sha256Stream::Context {
  EVP_MD_CTX* evp = nullptr;
  Context() : evp(EVP_MD_CTX_new()) {
    Require(evp != nullptr);
    Require(EVP_DigestInit_ex(evp, EVP_sha256(), nullptr) == 1);
  }
  ~Context() { EVP_MD_CTX_free(evp); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

Sha256Stream::Sha256Stream() : context_(std::make_unique<Context>()) {}
Sha256Stream::~Sha256Stream() = default;
Sha256Stream::Sha256Stream(Sha256Stream&&) noexcept = default;
Sha256Stream& Sha256Stream::operator=(Sha256Stream&&) noexcept = default;

void Sha256Stream::Update(std::span<const std::byte> data) {
  Require(context_ != nullptr);
  if (!data.empty()) Require(EVP_DigestUpdate(context_->evp, data.data(), data.size()) == 1);
}

std::string Sha256Stream::Finish() {
  Require(context_ != nullptr);
  std::string digest(kSha256Bytes, '\0');
  unsigned int length = 0;
  Require(EVP_DigestFinal_ex(context_->evp, reinterpret_cast<unsigned char*>(digest.data()), &length) == 1);
  Require(length == kSha256Bytes);
  context_.reset();
  return digest;
}

std::string Sha256(std::span<const std::byte> data) {
  Sha256Stream stream;
  stream.Update(data);
  return stream.Finish();
}

std::string Sha256(std::string_view data) { return Sha256(std::as_bytes(std::span(data))); }

std::string ToHex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

std::string FromHex(std::string_view hex) {
  if (hex.size() % 2 != 0) return "";
  std::string bytes;
  bytes.reserve(hex.size() / 2);
  for (size_t i = 0; i < hex.size(); i += 2) {
    const int high = HexDigit(hex[i]);
    const int low = HexDigit(hex[i + 1]);
    if (high < 0 || low < 0) return "";
    bytes.push_back(static_cast<char>(high * 16 + low));
  }
  return bytes;
}

}  // namespace strata::secure
