#include "specials.h"

#include <algorithm>
#include <cstring>

namespace bpetok {

Specials::Specials(std::vector<Special> specials) : specials_(std::move(specials)), nodes_(1) {
    for (const Special& special : specials_) {
        if (special.text.empty()) throw VocabError("vocab: a special token must not be empty");
        std::uint32_t at = 0;
        for (const char byte : special.text) {
            std::uint32_t next = child(nodes_[at], byte);
            if (next == 0) {
                next = static_cast<std::uint32_t>(nodes_.size());
                auto& children = nodes_[at].children;
                children.insert(std::upper_bound(children.begin(), children.end(), std::pair(byte, next)),
                                {byte, next});
                nodes_.emplace_back();
            }
            at = next;
        }
        nodes_[at].special = &special;
        begins_[static_cast<unsigned char>(special.text[0])] = true;
    }
    one_beginning_ = std::count(begins_.begin(), begins_.end(), true) == 1;
    if (one_beginning_) beginning_ = specials_[0].text[0];
}

// 0 if there is none: the root is nobody's child.
std::uint32_t Specials::child(const Node& node, char byte) const {
    const auto found = std::lower_bound(node.children.begin(), node.children.end(), byte,
                                        [](const auto& entry, char wanted) { return entry.first < wanted; });
    return found != node.children.end() && found->first == byte ? found->second : 0;
}

std::optional<Specials::Found> Specials::find(Bytes text, std::size_t from) const {
    if (empty()) return {};
    const char *begin = text.data(), *end = begin + text.size();
    for (const char* p = begin + from; p < end; ++p) {
        if (one_beginning_) {
            p = static_cast<const char*>(std::memchr(p, beginning_, static_cast<std::size_t>(end - p)));
            if (!p) return {};
        } else {
            while (p < end && !begins_[static_cast<unsigned char>(*p)]) ++p;
        }
        const Special* longest = nullptr;
        std::uint32_t at = 0;
        for (const char* q = p; q < end; ++q) {
            at = child(nodes_[at], *q);
            if (at == 0) break;
            if (nodes_[at].special) longest = nodes_[at].special;
        }
        if (longest) return Found{static_cast<std::size_t>(p - begin), longest};
    }
    return {};
}

}  // namespace bpetok
