// GGUF files that hold nothing but a tokenizer.
#ifndef STRATA_TESTS_CLIENT_DATA_GGUF_BYTES_H_
#define STRATA_TESTS_CLIENT_DATA_GGUF_BYTES_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"

namespace strata::data {

// Metadata in the order of the calls.
class GgufMetadata {
 public:
  void String(std::string_view key, std::string_view value) {
    Key(key, 8);
    Text(value);
  }
  void Uint(std::string_view key, uint32_t value) {
    Key(key, 4);
    Put(value);
  }
  void Bool(std::string_view key, bool value) {
    Key(key, 7);
    Put(static_cast<uint8_t>(value));
  }
  void Strings(std::string_view key, const std::vector<std::string>& values) {
    Array(key, 8, values.size());
    for (const std::string& value : values) Text(value);
  }
  void Ints(std::string_view key, const std::vector<int32_t>& values) {
    Array(key, 5, values.size());
    for (const int32_t value : values) Put(value);
  }
  void Floats(std::string_view key, const std::vector<float>& values) {
    Array(key, 6, values.size());
    for (const float value : values) Put(value);
  }
  std::string File() const {
    GgufMetadata head;
    head.bytes_ = "GGUF";
    head.Put<uint32_t>(3);
    head.Put<uint64_t>(0);
    head.Put<uint64_t>(num_keys_);
    std::string file = head.bytes_ + bytes_;
    file.resize((file.size() + 31) / 32 * 32);
    return file;
  }

 private:
  template <typename T>
  void Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Text(std::string_view text) {
    Put<uint64_t>(text.size());
    bytes_.append(text);
  }
  void Key(std::string_view key, uint32_t type) {
    ++num_keys_;
    Text(key);
    Put(type);
  }
  void Array(std::string_view key, uint32_t type, uint64_t size) {
    Key(key, 9);
    Put(type);
    Put(size);
  }
  std::string bytes_;
  uint64_t num_keys_ = 0;
};

// A tokenizer.json of one of the known families as GGUF metadata.
inline std::string GgufOfTokenizer(const nlohmann::json& document, const std::string& family) {
  const bool scored = family == "llama2";
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;
  const auto put = [&](int32_t id, const std::string& token, int32_t type) {
    if (tokens.size() <= static_cast<size_t>(id)) {
      tokens.resize(id + 1);
      types.resize(id + 1, 1);
    }
    tokens[id] = token;
    types[id] = type;
  };
  for (const auto& [token, id] : document["model"]["vocab"].items()) {
    const bool byte = scored && token.size() == 6 && token.starts_with("<0x");
    put(id.get<int32_t>(), token, byte ? 6 : 1);
  }
  for (const auto& added : document["added_tokens"]) {
    put(added["id"].get<int32_t>(), added["content"].get<std::string>(), added["special"].get<bool>() ? 3 : 4);
  }
  // sentencepiece numbers its pieces by descending score behind the specials and the bytes; runs of spaces come last.
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool spaces = tokens[id].find_first_not_of("▁") == std::string::npos && tokens[id] != "▁";
    scores.push_back((id < 259 ? 0.0F : -static_cast<float>(id - 259)) - (spaces ? 1e6F : 0.0F));
  }
  GgufMetadata out;
  out.String("tokenizer.ggml.model", scored ? "llama" : "gpt2");
  out.Strings("tokenizer.ggml.tokens", tokens);
  out.Ints("tokenizer.ggml.token_type", types);
  if (scored) {
    out.Floats("tokenizer.ggml.scores", scores);
    out.Uint("tokenizer.ggml.bos_token_id", 1);
    out.Uint("tokenizer.ggml.eos_token_id", 2);
  } else {
    std::vector<std::string> merges;
    for (const auto& merge : document["model"]["merges"]) {
      merges.push_back(merge.is_string() ? merge.get<std::string>()
                                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    }
    out.Strings("tokenizer.ggml.merges", merges);
    out.String("tokenizer.ggml.pre", family == "llama3" ? "llama-bpe" : "qwen2");
    out.Bool("tokenizer.ggml.add_bos_token", false);
  }
  return out.File();
}

}  // namespace strata::data

#endif  // STRATA_TESTS_CLIENT_DATA_GGUF_BYTES_H_
