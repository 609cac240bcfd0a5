/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a guest in C begins with: entry, exception vectors, stacks.
 *
 * KVM_SEA_UCALL_MMIO (below 4 GiB) and KVM_SEA_STACK_SIZE (bytes, a multiple of 4096) can be given with -D.
 */

#ifndef KVM_SEA_UCALL_MMIO
#define KVM_SEA_UCALL_MMIO 0x291000
#endif
#ifndef KVM_SEA_STACK_SIZE
#define KVM_SEA_STACK_SIZE 0x4000
#endif

/* struct ex_regs */
#define SAVED_SIZE 272
#define SAVED_X30 240
#define SAVED_SP 248
#define SAVED_PC 256
/* struct kvm_sea_ucall */
#define UCALL_SIZE 144
#define UCALL_ABORT 2
#define UCALL_UNHANDLED 5

	.file	"kvm_sea_guest.S"

	.global	kvm_sea_ucall_mmio
	.set kvm_sea_ucall_mmio, KVM_SEA_UCALL_MMIO

	.macro address, register, symbol
	adrp	\register, \symbol
	add	\register, \register, :lo12:\symbol
	.endm

	.macro ucall_mmio, register
	mov	\register, #(KVM_SEA_UCALL_MMIO & 0xffff)
	movk	\register, #(KVM_SEA_UCALL_MMIO >> 16), lsl #16
	.endm

	.macro function, name
	.type	\name, %function
\name:
	.endm

	.macro end_function, name
	.size	\name, . - \name
	.endm

/* Exceptions: save everything, look for a handler, restore everything. */

	.macro vector, number
	.balign	128
	sub	sp, sp, #SAVED_SIZE
	str	x30, [sp, #SAVED_X30]
	stp	x0, x1, [sp]
	mov	w0, #\number
	b	kvm_sea_exception
	.endm

	.section .kvm_sea.vectors, "ax", %progbits
	.balign	2048
	.global	kvm_sea_vectors
	function kvm_sea_vectors
	vector	0
	vector	1
	vector	2
	vector	3
	vector	4
	vector	5
	vector	6
	vector	7
	vector	8
	vector	9
	vector	10
	vector	11
	vector	12
	vector	13
	vector	14
	vector	15
	end_function kvm_sea_vectors

	/* w0: vector */
	function kvm_sea_exception
	stp	x2, x3, [sp, #16]
	stp	x4, x5, [sp, #32]
	stp	x6, x7, [sp, #48]
	stp	x8, x9, [sp, #64]
	stp	x10, x11, [sp, #80]
	stp	x12, x13, [sp, #96]
	stp	x14, x15, [sp, #112]
	stp	x16, x17, [sp, #128]
	stp	x18, x19, [sp, #144]
	stp	x20, x21, [sp, #160]
	stp	x22, x23, [sp, #176]
	stp	x24, x25, [sp, #192]
	stp	x26, x27, [sp, #208]
	stp	x28, x29, [sp, #224]
	add	x1, sp, #SAVED_SIZE
	str	x1, [sp, #SAVED_SP]
	mrs	x1, elr_el1
	mrs	x2, spsr_el1
	stp	x1, x2, [sp, #SAVED_PC]

	/* w1: class, or -1 where there is none; w2: class as the handler was installed for it. */
	mov	w1, #-1
	tst	w0, #3
	b.ne	1f
	mrs	x1, esr_el1
	ubfx	x1, x1, #26, #6
1:	mov	w2, w1
2:	address	x3, kvm_sea_handlers_start
	address	x4, kvm_sea_handlers_end
3:	cmp	x3, x4
	b.hs	4f
	ldp	w5, w6, [x3], #16
	cmp	w5, w0
	ccmp	w6, w2, #0, eq
	b.ne	3b
	ldr	x5, [x3, #-8]
	mov	x0, sp
	blr	x5
	b	kvm_sea_restore
4:	cmn	w2, #1
	b.eq	kvm_sea_unhandled
	mov	w2, #-1
	b	2b
	end_function kvm_sea_exception

	/* w0: vector, w1: class or -1. The VMM is told, and then it is as if there had been a handler. */
	function kvm_sea_unhandled
	sub	sp, sp, #UCALL_SIZE
	cmn	w1, #1
	cset	w2, ne
	csel	w1, w1, wzr, ne
	mov	w3, #UCALL_UNHANDLED
	stp	x3, x0, [sp]
	stp	x1, x2, [sp, #16]
	ucall_mmio x3
	mov	x4, sp
	str	x4, [x3]
	add	sp, sp, #UCALL_SIZE
	end_function kvm_sea_unhandled

	function kvm_sea_restore
	ldp	x0, x1, [sp, #SAVED_PC]
	msr	elr_el1, x0
	msr	spsr_el1, x1
	ldp	x0, x1, [sp]
	ldp	x2, x3, [sp, #16]
	ldp	x4, x5, [sp, #32]
	ldp	x6, x7, [sp, #48]
	ldp	x8, x9, [sp, #64]
	ldp	x10, x11, [sp, #80]
	ldp	x12, x13, [sp, #96]
	ldp	x14, x15, [sp, #112]
	ldp	x16, x17, [sp, #128]
	ldp	x18, x19, [sp, #144]
	ldp	x20, x21, [sp, #160]
	ldp	x22, x23, [sp, #176]
	ldp	x24, x25, [sp, #192]
	ldp	x26, x27, [sp, #208]
	ldp	x28, x29, [sp, #224]
	ldr	x30, [sp, #SAVED_X30]
	add	sp, sp, #SAVED_SIZE
	eret
	end_function kvm_sea_restore

/* Entry. The VMM has set SP, VBAR_EL1 and the MMU. */

	.text
	.global	_start
	function _start
	mov	x29, xzr
	mov	x30, xzr
	bl	guest_code
	address	x0, .Lended
	b	kvm_sea_ended
	end_function _start

	/* x0: function; noreturn */
	.global	enter_el0
	function enter_el0
	mov	x19, x0
	address	x1, kvm_sea_user_stack_top
	msr	sp_el0, x1
	address	x1, kvm_sea_user_start
	msr	elr_el1, x1
	msr	spsr_el1, xzr
	eret
	end_function enter_el0

	function kvm_sea_user_start
	mov	x29, xzr
	mov	x30, xzr
	blr	x19
	address	x0, .Luser_ended
	end_function kvm_sea_user_start

	/* x0: what to tell the VMM, as often as it runs the guest */
	function kvm_sea_ended
	ucall_mmio x17
1:	str	x0, [x17]
	b	1b
	end_function kvm_sea_ended

	/* A ucall ABORT: expression, file, line, four arguments that it has not, format, no arguments of it. */
	.macro	abort, text
	.quad	UCALL_ABORT, .Lexpression, .Lfile, 0, 0, 0, 0, 0, \text, 0, 0, 0, 0, 0, 0, 0, 0, 0
	.endm

	.section .rodata.kvm_sea, "a", %progbits
	.balign	8
.Lended:	abort	.Lended_text
.Luser_ended:
	abort	.Luser_ended_text
.Lexpression:
	.asciz	"guest code does not end"
.Lfile:	.asciz	"kvm_sea_guest.S"
.Lended_text:
	.asciz	"guest_code has returned; a guest ends with GUEST_DONE() or GUEST_FAIL()"
.Luser_ended_text:
	.asciz	"the function at EL0 has returned; a guest ends with GUEST_DONE() or GUEST_FAIL()"

/* Stacks; the linker script leaves out a page below each. */

	.section .kvm_sea.stack, "aw", %nobits
	.balign	4096
	.skip	KVM_SEA_STACK_SIZE
	.global	kvm_sea_stack_top
kvm_sea_stack_top:

	.section .kvm_sea.user_stack, "aw", %nobits
	.balign	4096
	.skip	KVM_SEA_STACK_SIZE
	.global	kvm_sea_user_stack_top
kvm_sea_user_stack_top:

	.section .note.GNU-stack, "", %progbits
