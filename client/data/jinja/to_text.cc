#include <algorithm>

#include "client/data/jinja/text.h"
#include "client/data/jinja/value.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

absl::Status CheckSize(const std::string& out) {
  if (out.size() <= kMaxBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat("a text of more than ", kMaxBytes >> 20, " MiB"));
}

// What every form writes alike, but for the words of None, True and False.
std::string ScalarText(const Value& value) {
  return value.is_float() ? FloatText(*value.number()) : Cat(*value.integer());
}

class Representation {
 public:
  absl::Status Append(const Value& value) {
    if (value.text() != nullptr) {
      out += Quoted(*value.text());
    } else if (value.is_undefined()) {
      out += "Undefined";
    } else if (value.is_none()) {
      out += "None";
    } else if (value.is_bool()) {
      out += value.Truth() ? "True" : "False";
    } else if (value.number().has_value()) {
      out += ScalarText(value);
    } else if (value.sequence() != nullptr) {
      STRATA_RETURN_IF_ERROR(Append(*value.sequence()));
    } else if (value.view() != nullptr) {
      STRATA_RETURN_IF_ERROR(Append(*value.view()));
    } else if (value.dict() != nullptr) {
      STRATA_RETURN_IF_ERROR(Append(*value.dict()));
    } else {
      out += Cat("<", value.type(), ">");
    }
    return CheckSize(out);
  }

  std::string out;

 private:
  absl::Status Append(const Sequence& sequence) {
    out += sequence.is_tuple ? '(' : '[';
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      if (i > 0) out += ", ";
      STRATA_RETURN_IF_ERROR(Append(sequence.items[i]));
    }
    if (sequence.is_tuple && sequence.items.size() == 1) out += ',';
    out += sequence.is_tuple ? ')' : ']';
    return absl::OkStatus();
  }

  absl::Status Append(const View& view) {
    if (!view.sized()) {
      return absl::InvalidArgumentError(
          Cat("a ", view.type, " has no text but its address; make it a list with `| list`"));
    }
    out += Cat(view.type, "([");
    for (size_t i = 0; i < view.items.size(); ++i) {
      if (i > 0) out += ", ";
      STRATA_RETURN_IF_ERROR(Append(view.items[i]));
    }
    out += "])";
    return absl::OkStatus();
  }

  absl::Status Append(const Dict& dict) {
    out += '{';
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) out += ", ";
      STRATA_RETURN_IF_ERROR(Append(dict.entries[i].first));
      out += ": ";
      STRATA_RETURN_IF_ERROR(Append(dict.entries[i].second));
    }
    out += '}';
    return absl::OkStatus();
  }
};

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  absl::Status Append(const Value& value, int level) {
    if (value.text() != nullptr) {
      out += JsonQuoted(*value.text(), style_.ascii);
    } else if (value.sequence() != nullptr) {
      STRATA_RETURN_IF_ERROR(AppendList(value.sequence()->items, level));
    } else if (value.dict() != nullptr) {
      STRATA_RETURN_IF_ERROR(AppendDict(value.dict()->entries, level));
    } else {
      STRATA_ASSIGN_OR_RETURN(const std::string scalar, Scalar(value));
      out += scalar;
    }
    return CheckSize(out);
  }

  std::string out;

 private:
  static absl::StatusOr<std::string> Scalar(const Value& value) {
    if (value.is_none()) return std::string("null");
    if (value.is_bool()) return std::string(value.Truth() ? "true" : "false");
    if (!value.number().has_value()) {
      return absl::InvalidArgumentError(Cat("Object of type ", value.type(), " is not JSON serializable"));
    }
    const std::string text = ScalarText(value);
    if (text == "nan") return std::string("NaN");
    if (text.ends_with("inf")) return std::string(text[0] == '-' ? "-Infinity" : "Infinity");
    return text;
  }

  void Break(int level) {
    if (!style_.indent.has_value()) return;
    out += '\n';
    for (int i = 0; i < level && out.size() <= kMaxBytes; ++i) out += *style_.indent;
  }

  absl::Status AppendList(const std::vector<Value>& items, int level) {
    out += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      Break(level + 1);
      STRATA_RETURN_IF_ERROR(Append(items[i], level + 1));
    }
    if (!items.empty()) Break(level);
    out += ']';
    return absl::OkStatus();
  }

  absl::Status AppendDict(const std::vector<std::pair<Value, Value>>& entries, int level) {
    std::vector<std::pair<std::string, const Value*>> named;
    for (const auto& [key, item] : entries) {
      if (key.text() != nullptr) {
        named.emplace_back(*key.text(), &item);
      } else {
        STRATA_ASSIGN_OR_RETURN(std::string name, Scalar(key));
        named.emplace_back(std::move(name), &item);
      }
    }
    if (style_.sort_keys) {
      std::stable_sort(named.begin(), named.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out += '{';
    for (size_t i = 0; i < named.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      Break(level + 1);
      out += JsonQuoted(named[i].first, style_.ascii) + style_.key_separator;
      STRATA_RETURN_IF_ERROR(Append(*named[i].second, level + 1));
    }
    if (!named.empty()) Break(level);
    out += '}';
    return absl::OkStatus();
  }

  const JsonStyle& style_;
};

}  // namespace

absl::StatusOr<std::string> ToRepresentation(const Value& value) {
  Representation representation;
  STRATA_RETURN_IF_ERROR(representation.Append(value));
  return std::move(representation.out);
}

absl::StatusOr<std::string> ToText(const Value& value) {
  if (value.text() != nullptr) return *value.text();
  if (value.is_undefined()) return std::string();
  return ToRepresentation(value);
}

absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  STRATA_RETURN_IF_ERROR(writer.Append(value, 0));
  return std::move(writer.out);
}

}  // namespace strata::jinja
