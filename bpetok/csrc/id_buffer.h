// id_buffer.h: a growing array of ids that is written to behind its end, many at a time.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include "types.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bpetok {

// Unlike std::vector it leaves new room as it is, and asks for large pages where it grows large: of what encoding
// costs, a fifth was the system's handing out of small ones.
class IdBuffer {
  public:
    IdBuffer() = default;
    IdBuffer(IdBuffer&& other) noexcept { swap(other); }
    IdBuffer& operator=(IdBuffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~IdBuffer() { std::free(ids_); }

    const Id* data() const { return ids_; }
    Id* data() { return ids_; }
    std::size_t size() const { return size_; }
    std::size_t capacity() const { return capacity_; }
    void clear() { size_ = 0; }
    // Requires of both: it is not empty.
    Id back() const { return ids_[size_ - 1]; }
    void drop_last() { --size_; }

    // Room for n more ids behind the end. Throws std::bad_alloc.
    Id* room(std::size_t n) {
        if (n > capacity_ - size_) move_to((size_ + n) + (size_ + n) / 2 + 64);
        return ids_ + size_;
    }

    // Room for n ids in all, if the system has it to give. What is not written to takes addresses, but no memory.
    void expect(std::size_t n) {
        try {
            if (n > capacity_) move_to(n);
        } catch (const std::bad_alloc&) {
            return;  // fewer may do, and `room` will ask for those
        }
    }

    // Makes what was written up to `end` part of the array. Requires: end is within the room asked for.
    void extend_to(const Id* end) { size_ = static_cast<std::size_t>(end - ids_); }

    void append(std::span<const Id> ids) {
        Id* out = room(ids.size());
        if (!ids.empty()) std::memcpy(out, ids.data(), ids.size_bytes());
        size_ += ids.size();
    }

  private:
    static constexpr std::size_t kLargePage = 1 << 21;

    void move_to(std::size_t capacity) {
        std::size_t bytes = capacity * sizeof(Id);
        void* moved = nullptr;
#if defined(__linux__)
        if (bytes >= 2 * kLargePage) {
            bytes = (bytes + kLargePage - 1) / kLargePage * kLargePage;
            moved = std::aligned_alloc(kLargePage, bytes);
            if (moved) madvise(moved, bytes, MADV_HUGEPAGE);  // advice: without it all is well, only slower
        }
#endif
        if (!moved) moved = std::malloc(bytes);
        if (!moved) throw std::bad_alloc();
        if (size_ > 0) std::memcpy(moved, ids_, size_ * sizeof(Id));
        std::free(ids_);
        ids_ = static_cast<Id*>(moved);
        capacity_ = bytes / sizeof(Id);
    }

    void swap(IdBuffer& other) {
        std::swap(ids_, other.ids_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
    }

    Id* ids_ = nullptr;
    std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace bpetok
