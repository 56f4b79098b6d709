#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/config/tree.h"
#include "nlohmann/json.hpp"

namespace strata::config {
namespace {

// Tells how far the parser has read. A callback comes when the parser stands on the last character of its token, or one
// behind it for numbers: the lines that ended before that character are the token's line either way.
class Cursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Cursor(const char* at, const char** last) : at_(at), last_(last) {}
  reference operator*() const {
    *last_ = at_;
    return *at_;
  }
  Cursor& operator++() {
    ++at_;
    return *this;
  }
  Cursor operator++(int) {
    Cursor before = *this;
    ++at_;
    return before;
  }
  bool operator==(const Cursor& other) const { return at_ == other.at_; }
  bool operator!=(const Cursor& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** last_;
};

class Handler : public nlohmann::json_sax<nlohmann::json> {
 public:
  Handler(std::string_view text, const char** last, Faults& faults, Node& root)
      : text_(text), last_(last), faults_(faults), builder_(faults, root) {}

  bool null() override { return Scalar(Node::Kind::kNull, ""); }
  bool boolean(bool value) override { return Scalar(Node::Kind::kPlain, value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return Scalar(Node::Kind::kPlain, absl::StrCat(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Scalar(Node::Kind::kPlain, absl::StrCat(value)); }
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return Scalar(Node::Kind::kPlain, text);
  }
  bool string(string_t& value) override { return Scalar(Node::Kind::kString, value); }
  bool binary(binary_t& /*value*/) override { return false; }
  bool start_object(size_t /*size*/) override { return builder_.Open(Node::Kind::kMap, Line()); }
  bool key(string_t& value) override { return Scalar(Node::Kind::kString, value); }
  bool end_object() override { return Close(); }
  bool start_array(size_t /*size*/) override { return builder_.Open(Node::Kind::kList, Line()); }
  bool end_array() override { return Close(); }
  bool parse_error(size_t /*position*/, const std::string& token, const nlohmann::detail::exception& error) override {
    // The library's text starts with its own error number and position.
    const std::string text = error.what();
    const size_t reason = text.find("syntax error");
    faults_.AddAtLine(Line(), absl::StrCat("not valid JSON: ", reason == std::string::npos ? "found `" + token + "`"
                                                                                           : text.substr(reason)));
    return false;
  }

 private:
  bool Scalar(Node::Kind kind, std::string text) {
    builder_.Scalar(kind, std::move(text), Line());
    return true;
  }
  bool Close() {
    builder_.Close();
    return true;
  }
  int Line() const { return 1 + static_cast<int>(std::count(text_.data(), *last_, '\n')); }

  std::string_view text_;
  const char** last_;
  Faults& faults_;
  TreeBuilder builder_;
};

}  // namespace

bool ParseJson(std::string_view text, Faults& faults, Node& root) {
  const char* last = text.data();
  Handler handler(text, &last, faults, root);
  const Cursor begin(text.data(), &last);
  const Cursor end(text.data() + text.size(), &last);
  return nlohmann::json::sax_parse(begin, end, &handler);
}

}  // namespace strata::config
