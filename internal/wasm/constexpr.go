package wasm

// constExpr reads and computes a constant expression, whose value must be of type want.
// Imported globals do not exist here, so every constant expression has a known value.
func (m *module) constExpr(r *reader, want ValType) Value {
	start := r.pos
	var room [8]Value
	stack := room[:0]
	for r.err == nil {
		at := r.pos
		op, _ := r.opcode()
		var v Value
		switch op {
		case opI32Const:
			v = Value{Type: I32, Lo: uint64(uint32(r.signed(32)))}
		case opI64Const:
			v = Value{Type: I64, Lo: uint64(r.signed(64))}
		case opF32Const:
			v = Value{Type: F32, Lo: uint64(r.fixed32())}
		case opF64Const:
			v = Value{Type: F64, Lo: r.fixed64()}
		case opV128Const:
			v = Value{Type: V128, Lo: r.fixed64(), Hi: r.fixed64()}
		case opRefNull:
			v = Value{Type: r.heapType(), Null: true}
		case opRefFunc:
			f := r.index("function", len(m.funcs))
			if r.err == nil {
				m.refer(f)
			}
			v = Value{Type: FuncRef, Lo: uint64(f)}
		case opGlobalGet:
			g := r.index("global", len(m.globals))
			if r.err != nil {
				break
			}
			if m.globals[g].mutable {
				r.fail(at, "constant expression reads global %d, which is mutable", g)
			}
			v = m.globals[g].init
		case opI32Add, opI32Sub, opI32Mul, opI64Add, opI64Sub, opI64Mul:
			n := len(stack)
			typ := I32
			if op >= opI64Add {
				typ = I64
			}
			if n < 2 || stack[n-1].Type != typ || stack[n-2].Type != typ {
				r.fail(at, "constant expression lacks two operands of type %v", typ)
				break
			}
			v = Value{Type: typ, Lo: arithmetic(op, stack[n-2].Lo, stack[n-1].Lo)}
			stack = stack[:n-2]
		case opEnd:
			if len(stack) != 1 || stack[0].Type != want {
				r.fail(start, "constant expression does not give one %v", want)
				break
			}
			return stack[0]
		default:
			r.fail(at, "opcode %#x is not allowed in a constant expression", op)
		}
		if len(stack) == maxConstExprDepth {
			r.fail(at, "constant expression with more than %d operands", maxConstExprDepth)
		}
		stack = append(stack, v)
	}
	return Value{Type: want}
}

func arithmetic(op uint32, a, b uint64) uint64 {
	switch op {
	case opI32Add:
		return uint64(uint32(a + b))
	case opI32Sub:
		return uint64(uint32(a - b))
	case opI32Mul:
		return uint64(uint32(a * b))
	case opI64Add:
		return a + b
	case opI64Sub:
		return a - b
	case opI64Mul:
		return a * b
	}
	panic("BUG: not an opcode of extended constant expressions")
}

// heapType reads the operand of ref.null.
func (r *reader) heapType() ValType {
	at := r.pos
	t := r.valType()
	if !t.IsRef() {
		r.fail(at, "%v is not a heap type", t)
	}
	return t
}
