/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions that compilers call by themselves. All are weak: a guest may have its own.
 *
 * Not in C, because a compiler may turn a loop that copies into a call of memcpy; and not libgcc's, because those use the
 * SIMD registers.
 */

	.file	"kvm_sea_runtime.S"

	.macro function, name
	.type	\name, %function
\name:
	.endm

	.macro end_function, name
	.size	\name, . - \name
	.endm

	.macro runtime, name
	.weak	\name
	function \name
	.endm

	.macro negate_pair, low, high
	negs	\low, \low
	ngc	\high, \high
	.endm

/* Memory */

	.section .text.memcpy, "ax", %progbits
	runtime memcpy
	mov	x3, x0
1:	cbz	x2, 2f
	ldrb	w4, [x1], #1
	strb	w4, [x3], #1
	sub	x2, x2, #1
	b	1b
2:	ret
	end_function memcpy

	.section .text.memmove, "ax", %progbits
	runtime memmove
	sub	x3, x0, x1
	cmp	x3, x2
	b.hs	memcpy
1:	cbz	x2, 2f
	sub	x2, x2, #1
	ldrb	w4, [x1, x2]
	strb	w4, [x0, x2]
	b	1b
2:	ret
	end_function memmove

	.section .text.memset, "ax", %progbits
	runtime memset
	mov	x3, x0
1:	cbz	x2, 2f
	strb	w1, [x3], #1
	sub	x2, x2, #1
	b	1b
2:	ret
	end_function memset

	.section .text.memcmp, "ax", %progbits
	runtime memcmp
1:	cbz	x2, 2f
	ldrb	w3, [x0], #1
	ldrb	w4, [x1], #1
	sub	x2, x2, #1
	subs	w5, w3, w4
	b.eq	1b
	mov	w0, w5
	ret
2:	mov	w0, wzr
	ret
	end_function memcmp

/* Arithmetic with 128 bits, and counting bits: what a compiler has its library for. */

	.section .text.kvm_sea_division, "ax", %progbits

	/* x1:x0 by x3:x2; quotient in x1:x0, remainder in x5:x4, bit by bit. It keeps x11 and x12. */
	function kvm_sea_divide
	mov	x4, xzr
	mov	x5, xzr
	mov	w6, #128
1:	adds	x0, x0, x0
	adcs	x1, x1, x1
	adcs	x4, x4, x4
	adcs	x5, x5, x5
	cset	w7, cs
	subs	x8, x4, x2
	sbcs	x9, x5, x3
	cset	w10, cs
	orr	w7, w7, w10
	cbz	w7, 2f
	mov	x4, x8
	mov	x5, x9
	orr	x0, x0, #1
2:	sub	w6, w6, #1
	cbnz	w6, 1b
	ret
	end_function kvm_sea_divide

	runtime __udivti3
	b	kvm_sea_divide
	end_function __udivti3

	runtime __umodti3
	mov	x11, x30
	bl	kvm_sea_divide
	mov	x0, x4
	mov	x1, x5
	ret	x11
	end_function __umodti3

	/* x1:x0 and x3:x2 without their signs */
	function kvm_sea_divide_signed
	tbz	x1, #63, 1f
	negate_pair x0, x1
1:	tbz	x3, #63, kvm_sea_divide
	negate_pair x2, x3
	b	kvm_sea_divide
	end_function kvm_sea_divide_signed

	runtime __divti3
	mov	x11, x30
	eor	x12, x1, x3
	bl	kvm_sea_divide_signed
	tbz	x12, #63, 1f
	negate_pair x0, x1
1:	ret	x11
	end_function __divti3

	/* The remainder has the sign of what is divided. */
	runtime __modti3
	mov	x11, x30
	mov	x12, x1
	bl	kvm_sea_divide_signed
	mov	x0, x4
	mov	x1, x5
	tbz	x12, #63, 1f
	negate_pair x0, x1
1:	ret	x11
	end_function __modti3

	.section .text.kvm_sea_shifts, "ax", %progbits
	runtime __ashlti3
	tbnz	w2, #6, 1f
	mvn	w3, w2
	lsr	x4, x0, #1
	lsr	x4, x4, x3
	lsl	x1, x1, x2
	orr	x1, x1, x4
	lsl	x0, x0, x2
	ret
1:	lsl	x1, x0, x2
	mov	x0, xzr
	ret
	end_function __ashlti3

	.macro shift_right, name, shift, fill
	runtime \name
	tbnz	w2, #6, 1f
	mvn	w3, w2
	lsl	x4, x1, #1
	lsl	x4, x4, x3
	lsr	x0, x0, x2
	orr	x0, x0, x4
	\shift	x1, x1, x2
	ret
1:	\shift	x0, x1, x2
	\fill
	ret
	end_function \name
	.endm

	shift_right __ashrti3, asr, "asr x1, x1, #63"
	shift_right __lshrti3, lsr, "mov x1, xzr"

	.section .text.__popcountdi2, "ax", %progbits
	runtime __popcountdi2
	mov	w1, wzr
1:	cbz	x0, 2f
	sub	x2, x0, #1
	and	x0, x0, x2
	add	w1, w1, #1
	b	1b
2:	mov	w0, w1
	ret
	end_function __popcountdi2

	.section .text.__paritydi2, "ax", %progbits
	runtime __paritydi2
	eor	x0, x0, x0, lsr #32
	eor	x0, x0, x0, lsr #16
	eor	x0, x0, x0, lsr #8
	eor	x0, x0, x0, lsr #4
	eor	x0, x0, x0, lsr #2
	eor	x0, x0, x0, lsr #1
	and	w0, w0, #1
	ret
	end_function __paritydi2

	.section .note.GNU-stack, "", %progbits
