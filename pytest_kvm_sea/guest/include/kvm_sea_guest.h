/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guests in C for pytest-kvm-sea: talking to the VMM, system registers, exceptions.
 *
 * A guest begins at EL1 with the MMU on, in
 *
 *	void guest_code(void)
 *
 * which must not return. It is built by a compiler for AArch64 with the flags that
 * `python -m pytest_kvm_sea.guest.cc` prints, and loaded by GuestProgram.from_elf.
 */
#ifndef KVM_SEA_GUEST_H
#define KVM_SEA_GUEST_H

#ifdef __ARM_NEON
#error "a guest has no FP and SIMD registers: compile with -mgeneral-regs-only (zig: -mcpu=generic-neon-fp_armv8)"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Talking to the VMM
 *
 * A store of the address of this structure to a page without memory is a ucall; pytest_kvm_sea/guest/ucall.py is the
 * other side of it. Texts are formatted by the VMM: that allows for printf at EL0 and in any handler, and for 8
 * arguments at most.
 */

enum kvm_sea_command {
	KVM_SEA_UCALL_SYNC = 1,
	KVM_SEA_UCALL_ABORT = 2,
	KVM_SEA_UCALL_PRINTF = 3,
	KVM_SEA_UCALL_DONE = 4,
	KVM_SEA_UCALL_UNHANDLED = 5,
};

#define KVM_SEA_FORMAT_ARGUMENTS 8

struct kvm_sea_ucall {
	uint64_t cmd;
	uint64_t args[7];
	uint64_t fmt;
	uint64_t count;
	uint64_t fmt_args[KVM_SEA_FORMAT_ARGUMENTS];
};

_Static_assert(offsetof(struct kvm_sea_ucall, fmt) == 64, "the layout that the VMM reads");
_Static_assert(offsetof(struct kvm_sea_ucall, fmt_args) == 80, "the layout that the VMM reads");
_Static_assert(sizeof(struct kvm_sea_ucall) == 144, "the layout that the VMM reads");

/* A page that no memory backs; kvm_sea_guest.S says where it is. */
extern char kvm_sea_ucall_mmio[];

static inline void kvm_sea_ucall(const struct kvm_sea_ucall *call)
{
	/* One plain store: of others KVM cannot tell what was stored. */
	__asm__ volatile("str %0, [%1]" : : "r"(call), "r"(kvm_sea_ucall_mmio) : "memory");
}

#ifdef __FILE_NAME__
#define KVM_SEA_FILE __FILE_NAME__
#else
#define KVM_SEA_FILE __FILE__
#endif

/* Never called: has the compiler check a format against its arguments. */
int kvm_sea_check_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The arguments behind a format as 64-bit numbers, each with a comma before it. */
#define KVM_SEA_ARGS_1(f)
#define KVM_SEA_ARGS_2(f, a) , (uint64_t)(a)
#define KVM_SEA_ARGS_3(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_2(f, __VA_ARGS__)
#define KVM_SEA_ARGS_4(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_3(f, __VA_ARGS__)
#define KVM_SEA_ARGS_5(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_4(f, __VA_ARGS__)
#define KVM_SEA_ARGS_6(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_5(f, __VA_ARGS__)
#define KVM_SEA_ARGS_7(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_6(f, __VA_ARGS__)
#define KVM_SEA_ARGS_8(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_7(f, __VA_ARGS__)
#define KVM_SEA_ARGS_9(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_8(f, __VA_ARGS__)
/* More than a ucall carries: counted, so that the assertion below can say so. */
#define KVM_SEA_ARGS_10(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_9(f, __VA_ARGS__)
#define KVM_SEA_ARGS_11(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_10(f, __VA_ARGS__)
#define KVM_SEA_ARGS_12(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_11(f, __VA_ARGS__)
#define KVM_SEA_ARGS_13(f, a, ...) , (uint64_t)(a) KVM_SEA_ARGS_12(f, __VA_ARGS__)
#define KVM_SEA_NTH(f, a, b, c, d, e, g, h, i, j, k, l, m, n, ...) n
#define KVM_SEA_PICK(...) \
	KVM_SEA_NTH(__VA_ARGS__, KVM_SEA_ARGS_13, KVM_SEA_ARGS_12, KVM_SEA_ARGS_11, KVM_SEA_ARGS_10, \
		    KVM_SEA_ARGS_9, KVM_SEA_ARGS_8, KVM_SEA_ARGS_7, KVM_SEA_ARGS_6, KVM_SEA_ARGS_5, KVM_SEA_ARGS_4, \
		    KVM_SEA_ARGS_3, KVM_SEA_ARGS_2, KVM_SEA_ARGS_1, )
#define KVM_SEA_FIRST_OF(f, ...) f
#define KVM_SEA_FIRST(...) KVM_SEA_FIRST_OF(__VA_ARGS__, )

#define KVM_SEA_FORMAT_UCALL(command, expression, line, ...) \
	do { \
		(void)sizeof(kvm_sea_check_format(__VA_ARGS__)); \
		const uint64_t kvm_sea_values[] = { 0 KVM_SEA_PICK(__VA_ARGS__)(__VA_ARGS__) }; \
		enum { kvm_sea_count = sizeof(kvm_sea_values) / sizeof(uint64_t) - 1 }; \
		_Static_assert(kvm_sea_count <= KVM_SEA_FORMAT_ARGUMENTS, "a ucall carries at most 8 arguments"); \
		struct kvm_sea_ucall kvm_sea_call = { \
			.cmd = (command), \
			.args = { (uint64_t)(expression), (uint64_t)KVM_SEA_FILE, (line) }, \
			.fmt = (uint64_t)KVM_SEA_FIRST(__VA_ARGS__), \
			.count = kvm_sea_count, \
		}; \
		for (int kvm_sea_i = 0; kvm_sea_i < kvm_sea_count; kvm_sea_i++) \
			kvm_sea_call.fmt_args[kvm_sea_i] = kvm_sea_values[kvm_sea_i + 1]; \
		kvm_sea_ucall(&kvm_sea_call); \
	} while (0)

#define KVM_SEA_ABORT(expression, ...) \
	KVM_SEA_FORMAT_UCALL(KVM_SEA_UCALL_ABORT, expression, __LINE__, __VA_ARGS__)

/* GUEST_PRINTF(format, ...): a text for the console. No floating point, no %n, no * for a width. */
#define GUEST_PRINTF(...) KVM_SEA_FORMAT_UCALL(KVM_SEA_UCALL_PRINTF, 0, 0, __VA_ARGS__)

/* GUEST_FAIL(format, ...): the test has failed. The guest goes on, should the VMM run it again. */
#define GUEST_FAIL(...) KVM_SEA_ABORT("Unconditional guest failure", __VA_ARGS__)

/* GUEST_ASSERT(condition): the test has failed unless it holds. */
#define GUEST_ASSERT(condition) \
	do { \
		if (!(condition)) \
			KVM_SEA_ABORT(#condition, "%s", ""); \
	} while (0)

/* Both sides once, as 64-bit numbers: what is signed is sign-extended, also where C would make it unsigned. */
#define KVM_SEA_ASSERT_CMP(left, operator, opposite, right, left_text, right_text) \
	do { \
		const uint64_t kvm_sea_left = (uint64_t)(left), kvm_sea_right = (uint64_t)(right); \
		if (!(kvm_sea_left operator kvm_sea_right)) \
			KVM_SEA_ABORT(left_text " " #operator " " right_text, "%#lx " #opposite " %#lx (%s " #opposite " %s)", \
				      (unsigned long)kvm_sea_left, (unsigned long)kvm_sea_right, left_text, right_text); \
	} while (0)

#define GUEST_ASSERT_EQ(left, right) KVM_SEA_ASSERT_CMP(left, ==, !=, right, #left, #right)
#define GUEST_ASSERT_NE(left, right) KVM_SEA_ASSERT_CMP(left, !=, ==, right, #left, #right)

/* GUEST_SYNC(stage): tell the VMM that a stage is reached; Vcpu.expect_sync(stage) waits for it. */
#define GUEST_SYNC(stage) \
	do { \
		const struct kvm_sea_ucall kvm_sea_call = { \
			.cmd = KVM_SEA_UCALL_SYNC, \
			.args = { (uint64_t)"hello", (uint64_t)(stage) }, \
		}; \
		kvm_sea_ucall(&kvm_sea_call); \
	} while (0)

/* GUEST_DONE(): the end; Vcpu.expect_done() waits for it. */
#define GUEST_DONE() \
	do { \
		const struct kvm_sea_ucall kvm_sea_call = { .cmd = KVM_SEA_UCALL_DONE }; \
		kvm_sea_ucall(&kvm_sea_call); \
	} while (0)

/*
 * System registers, barriers, calls
 *
 * Names are the assembler's (esr_el1, s3_0_c1_c0_1), or macros that stand for such a name.
 */

#define KVM_SEA_STRING_OF(text) #text
#define KVM_SEA_STRING(text) KVM_SEA_STRING_OF(text)

#define read_sysreg(name) \
	__extension__({ \
		uint64_t kvm_sea_value; \
		__asm__ volatile("mrs %0, " KVM_SEA_STRING(name) : "=r"(kvm_sea_value) : : "memory"); \
		kvm_sea_value; \
	})

#define write_sysreg(value, name) \
	__asm__ volatile("msr " KVM_SEA_STRING(name) ", %x0" : : "rZ"((uint64_t)(value)) : "memory")

#define isb() __asm__ volatile("isb" : : : "memory")
#define dsb(domain) __asm__ volatile("dsb " #domain : : : "memory")
#define dmb(domain) __asm__ volatile("dmb " #domain : : : "memory")
#define wfi() __asm__ volatile("wfi" : : : "memory")

/* Mask and unmask SErrors. A guest begins with them masked. */
#define local_serror_disable() __asm__ volatile("msr daifset, #4" : : : "memory")
#define local_serror_enable() __asm__ volatile("msr daifclr, #4" : : : "memory")

/* A call from EL0 to EL1, for a handler of ESR_EC_SVC64 that finds the number in ESR_EL1.ISS. */
#define guest_svc(number) __asm__ volatile("svc %0" : : "i"(number) : "memory")

/*
 * Exceptions
 */

/* What an exception interrupts, as it is on the stack. A handler may change all but sp; ERET uses pc and pstate. */
struct ex_regs {
	uint64_t regs[31];
	uint64_t sp;
	uint64_t pc;
	uint64_t pstate;
};

_Static_assert(sizeof(struct ex_regs) == 272, "what kvm_sea_guest.S saves");

#define VECTOR_SYNC_CURRENT_SP0 0
#define VECTOR_IRQ_CURRENT_SP0 1
#define VECTOR_FIQ_CURRENT_SP0 2
#define VECTOR_ERROR_CURRENT_SP0 3
#define VECTOR_SYNC_CURRENT 4
#define VECTOR_IRQ_CURRENT 5
#define VECTOR_FIQ_CURRENT 6
#define VECTOR_ERROR_CURRENT 7
#define VECTOR_SYNC_LOWER_64 8
#define VECTOR_IRQ_LOWER_64 9
#define VECTOR_FIQ_LOWER_64 10
#define VECTOR_ERROR_LOWER_64 11
#define VECTOR_SYNC_LOWER_32 12
#define VECTOR_IRQ_LOWER_32 13
#define VECTOR_FIQ_LOWER_32 14
#define VECTOR_ERROR_LOWER_32 15

/* ESR_EL1 (Arm ARM, D24.2.39) */
#define ESR_EC(esr) ((esr) >> 26 & 0x3f)
#define ESR_EC_UNKNOWN 0x00
#define ESR_EC_SVC64 0x15
#define ESR_EC_SYSREG 0x18
#define ESR_EC_IABT_LOWER 0x20
#define ESR_EC_IABT_CURRENT 0x21
#define ESR_EC_PC_ALIGN 0x22
#define ESR_EC_DABT_LOWER 0x24
#define ESR_EC_DABT_CURRENT 0x25
#define ESR_EC_SP_ALIGN 0x26
#define ESR_EC_SERROR 0x2f
#define ESR_EC_BRK64 0x3c
#define ESR_IL (UINT64_C(1) << 25)
#define ESR_ISS(esr) ((esr) & 0x1ffffff)
/* Of aborts */
#define ESR_FNV (UINT64_C(1) << 10)
#define ESR_WNR (UINT64_C(1) << 6)
#define ESR_FSC(esr) ((esr) & 0x3f)
#define ESR_FSC_SEA 0x10

struct kvm_sea_handler {
	uint32_t vector;
	uint32_t ec;
	void (*handle)(struct ex_regs *regs);
};

#define KVM_SEA_ANY_EC 0xffffffff

/* The symbol has the vector and the class in its name: two handlers for the same are an error of compiler or linker. */
#define KVM_SEA_HANDLER(symbol, vector, ec, handler) \
	extern const struct kvm_sea_handler symbol; \
	const struct kvm_sea_handler symbol __attribute__((section(".kvm_sea.handlers"), used)) = { vector, ec, handler }

/*
 * GUEST_SYNC_HANDLER(vector, class, handler); at file scope: void handler(struct ex_regs *) for synchronous exceptions
 * of one class. It is there before the guest's first instruction.
 */
#define GUEST_SYNC_HANDLER(vector, ec, handler) \
	_Static_assert((vector) >= 0 && (vector) < 16 && (vector) % 4 == 0, "only the vectors SYNC_* have classes"); \
	_Static_assert((ec) >= 0 && (ec) < 64, "a class (ESR_EL1.EC) has 6 bits"); \
	KVM_SEA_HANDLER(kvm_sea_handler_##vector##_##ec, vector, ec, handler)

/* GUEST_HANDLER(vector, handler); the same for all exceptions of a vector, but for classes with a handler of their own. */
#define GUEST_HANDLER(vector, handler) \
	_Static_assert((vector) >= 0 && (vector) < 16, "there are 16 vectors"); \
	KVM_SEA_HANDLER(kvm_sea_handler_##vector, vector, KVM_SEA_ANY_EC, handler)

/*
 * EL0
 *
 * It may read and execute all code and constants, and it may write its stack and the variables that are marked:
 * static uint64_t counter GUEST_USER_DATA;
 */
#define GUEST_USER_DATA __attribute__((section(".user.data")))

/* Run a function at EL0, on the stack for EL0. It must not return; only exceptions come back. */
void enter_el0(void (*function)(void)) __attribute__((noreturn));

/* What compilers call by themselves, so it is there. */
void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *left, const void *right, size_t size);

void guest_code(void);

#endif
