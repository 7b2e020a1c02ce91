;; Control flow of every kind, to see where the gates go.
(module
  (type $pair (func (param i32 i32) (result i32 i32)))
  (import "env" "host" (func $host))
  (memory 1)
  (table $t 2 funcref)
  (elem (i32.const 0) $leaf)
  (data $d "abc")

  (func $leaf (param i32) (result i32)
    (i32.add (local.get 0) (i32.const 1)))

  (func $loop (param i32)
    (local $i i32) (local $x f64)
    (loop $again
      (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1))))))

  (func $nested (param i32) (result i32)
    (block $out (result i32)
      (loop $a (result i32)
        (loop $b
          (br_if $b (local.get 0))
          (br_if $a (local.get 0)))
        (br $out (i32.const 7)))))

  (func $loop_with_parameters (param i32 i32) (result i32 i32)
    (local.get 0)
    (local.get 1)
    (loop (type $pair)
      (i32.const 1)
      (i32.add)
      (br_if 0 (local.get 0))))

  (func $loop_first_and_call
    (loop (call $host)))

  (func $calls (call $host))

  (func $recursive (param i32) (result i32)
    (local i64)
    (if (result i32) (local.get 0)
      (then (call $recursive (i32.sub (local.get 0) (i32.const 1))))
      (else (i32.const 0))))

  (func $calls_indirect (param i32) (result i32)
    (call_indirect $t (param i32) (result i32) (local.get 0) (i32.const 0)))

  (func $tail (param i32) (result i32)
    (return_call $leaf (local.get 0)))

  (func $tail_indirect (param i32) (result i32)
    (return_call_indirect $t (param i32) (result i32) (local.get 0) (i32.const 0)))

  (func $takes_reference (result funcref)
    (ref.func $leaf))

  (func $copies (param i32 i32 i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))

  (func $bulk
    (memory.fill (i32.const 0) (i32.const 0) (i32.const 10))
    (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))
    (data.drop $d)
    (table.set $t (i32.const 0) (ref.null func))
    (table.fill $t (i32.const 0) (ref.null func) (i32.const 1))
    (table.copy $t $t (i32.const 0) (i32.const 0) (i32.const 1))
    (drop (table.grow $t (ref.null func) (i32.const 1)))
    (drop (table.size $t))
    (drop (memory.grow (i32.const 1)))
    (drop (memory.size)))

  (func $unreachable_loop
    (return)
    (loop (br 0)))

  (func $switch (param i32) (result i32)
    (block $c
      (block $b
        (block $a
          (br_table $a $b $c (local.get 0)))
        (return (i32.const 1)))
      (return (i32.const 2)))
    (i32.const 3))
)
