/**
 * Finds the places in a source file where a small change should make a test fail, and builds a copy of the file that
 * holds all of these changes, each behind a switch.
 */
import { parseAst } from "vitest/node"

/** One small change of a source file. */
export interface Mutant {
  /** The switch that turns the change on; unique over all files of a run. */
  readonly id: number
  /** A path inside `packages/core/src`. */
  readonly file: string
  readonly line: number
  readonly column: number
  readonly operator: string
  readonly original: string
  readonly mutated: string
}

/** A node of the syntax tree. */
interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly [field: string]: unknown
}

/** A change before it has a number; `statement` changes stand where an expression cannot. */
interface Change {
  readonly operator: string
  readonly place: "expression" | "statement" | "body"
  readonly node: Node
  readonly text: string
}

const isNode = (value: unknown): value is Node =>
  typeof value === "object" && value !== null && "type" in value && typeof value.type === "string"

const child = (node: Node, field: string): Node | undefined => {
  const value = node[field]
  return isNode(value) ? value : undefined
}

const children = (node: Node, field: string): ReadonlyArray<Node> => {
  const value = node[field]
  return Array.isArray(value) ? value.filter(isNode) : []
}

/** `message`, and the texts of errors: a test that compares them is a test of wording. */
const isWording = (node: Node): boolean => {
  if (node.type === "ThrowStatement") return true
  const key = child(node, "key")
  return node.type === "Property" && key?.type === "Identifier" && key.name === "message"
}

const boundaries: Record<string, string> = { "<": "<=", "<=": "<", ">": ">=", ">=": ">" }
const negations: Record<string, string> = { "===": "!==", "!==": "===", "==": "!=", "!=": "==" }
const arithmetic: Record<string, string> = {
  "+": "-",
  "-": "+",
  "*": "/",
  "/": "*",
  "%": "*",
  "**": "*",
  "&": "|",
  "|": "&",
  "<<": ">>",
  ">>": "<<",
  ">>>": "<<"
}
const assignments: Record<string, string> = { "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=" }
const methods: Record<string, string> = {
  min: "max",
  max: "min",
  some: "every",
  every: "some",
  push: "unshift",
  unshift: "push",
  startsWith: "endsWith",
  endsWith: "startsWith",
  findIndex: "findLastIndex",
  find: "findLast"
}
/** Methods that give back what they are called on, in another form. */
const forms = new Set(["sort", "toSorted", "reverse", "toReversed", "slice", "filter", "concat", "toLowerCase", "trim"])
/** Functions of Effect whose first argument can stand in for their answer. */
const wrappers = new Set([
  "andThen",
  "ensuring",
  "onExit",
  "onError",
  "onInterrupt",
  "timeout",
  "timeoutOption",
  "delay",
  "uninterruptible",
  "interruptible",
  "ignore",
  "raceFirst",
  "race",
  "tap",
  "retry",
  "repeat",
  "catchCause",
  "exit"
])

/** `Effect.name(…)`: the name. */
const effectCall = (node: Node): string | undefined => {
  const callee = child(node, "callee")
  if (node.type !== "CallExpression" || callee?.type !== "MemberExpression" || callee.computed === true) {
    return undefined
  }
  const name = child(callee, "property")?.name
  return child(callee, "object")?.name === "Effect" && typeof name === "string" && wrappers.has(name) ? name : undefined
}

const isVoid = (node: Node): boolean =>
  node.type === "Identifier" && node.name === "undefined" || node.type === "UnaryExpression" && node.operator === "void"

const isText = (node: Node): boolean =>
  node.type === "TemplateLiteral" || node.type === "Literal" && typeof node.value === "string" ||
  node.type === "BinaryExpression" && (isText(child(node, "left")!) || isText(child(node, "right")!))

/** Collects the changes of one file. */
class Finder {
  readonly changes: Array<Change> = []
  private readonly source: string

  constructor(source: string) {
    this.source = source
  }

  private text(node: Node): string {
    return this.source.slice(node.start, node.end)
  }

  private add(operator: string, node: Node, text: string, place: Change["place"] = "expression"): void {
    this.changes.push({ operator, place, node, text })
  }

  /** The node with another operator between its operands. */
  private swapped(node: Node, to: string): string {
    const [left, right] = [child(node, "left")!, child(node, "right")!]
    const gap = this.source.slice(left.end, right.start).replace(String(node.operator), () => to)
    return this.source.slice(node.start, left.end) + gap + this.source.slice(right.start, node.end)
  }

  /** What decides a branch: always taken, never taken, and each operand without the other. */
  private condition(node: Node, isLoop: boolean): void {
    if (node.type === "Literal") return
    if (node.type === "LogicalExpression" && node.operator !== "??") {
      if (!isLoop || node.operator === "&&") this.add("condition", node, node.operator === "&&" ? "false" : "true")
      this.operands(node)
      return
    }
    if (!isLoop) this.add("condition", node, "true")
    this.add("condition", node, "false")
  }

  private operands(node: Node): void {
    for (const side of ["left", "right"] as const) {
      const operand = child(node, side)!
      if (operand.type === "LogicalExpression" && operand.operator !== "??") this.operands(operand)
      else this.add("operand", operand, node.operator === "&&" ? "true" : "false")
    }
  }

  /** `isFixed`: the node is part of a chain or the target of an assignment, so nothing can stand in its place. */
  visit(node: Node, isFixed = false): void {
    const { type } = node
    if (type === "ImportDeclaration" || type === "ExportAllDeclaration") return
    if (type.startsWith("TS") && !/^TS(As|NonNull|Satisfies)Expression$/.test(type)) return
    if (isWording(node)) {
      this.statement(node)
      return
    }
    if (!isFixed) this.expression(node)
    this.statement(node)
    for (const [field, value] of Object.entries(node)) {
      if ((field === "key" || field === "property") && node.computed !== true) continue
      const held = Array.isArray(value) ? value.filter(isNode) : isNode(value) ? [value] : []
      for (const each of held) this.visit(each, this.holds(node, field, each, isFixed))
    }
  }

  private holds(node: Node, field: string, each: Node, isFixed: boolean): boolean {
    if (node.type === "ChainExpression") return true
    if (field === "object" || field === "callee" || field === "expression" && each.type !== "CallExpression") {
      return isFixed || field === "callee"
    }
    return (node.type === "AssignmentExpression" || node.type === "ForOfStatement") && field === "left" ||
      node.type === "UpdateExpression"
  }

  private expression(node: Node): void {
    const operator = typeof node.operator === "string" ? node.operator : ""
    switch (node.type) {
      case "BinaryExpression": {
        if (Object.hasOwn(boundaries, operator)) this.add("boundary", node, this.swapped(node, boundaries[operator]!))
        if (Object.hasOwn(negations, operator)) this.add("equality", node, this.swapped(node, negations[operator]!))
        if (Object.hasOwn(arithmetic, operator) && !isText(node)) {
          this.add("arithmetic", node, this.swapped(node, arithmetic[operator]!))
        }
        return
      }
      case "LogicalExpression": {
        if (operator === "??") {
          this.add("nullish", node, this.text(child(node, "left")!))
          this.add("nullish", node, this.text(child(node, "right")!))
        } else this.add("logical", node, this.swapped(node, operator === "&&" ? "||" : "&&"))
        return
      }
      case "UnaryExpression": {
        if (operator === "!") this.add("negation", node, this.text(child(node, "argument")!))
        return
      }
      case "UpdateExpression": {
        const to = operator === "++" ? "--" : "++"
        const argument = this.text(child(node, "argument")!)
        this.add("update", node, node.prefix === true ? to + argument : argument + to)
        return
      }
      case "AssignmentExpression": {
        if (Object.hasOwn(assignments, operator)) {
          this.add("assignment", node, this.swapped(node, assignments[operator]!))
        }
        return
      }
      case "ConditionalExpression": {
        this.condition(child(node, "test")!, false)
        return
      }
      case "Literal": {
        if (typeof node.value === "boolean") this.add("boolean", node, String(!node.value))
        else if (node.value === 0 || node.value === 1) this.add("number", node, node.value === 0 ? "1" : "0")
        return
      }
      case "ChainExpression": {
        const at = this.text(node).lastIndexOf("?.")
        const text = this.text(node)
        const rest = text.slice(at + 2)
        this.add("optional", node, text.slice(0, at) + (/^[[(]/.test(rest) ? "" : ".") + rest)
        return
      }
      case "CallExpression": {
        this.call(node)
        return
      }
      case "ArrowFunctionExpression": {
        const body = child(node, "body")!
        if (body.type !== "BlockStatement" && body.type !== "Literal" && !isVoid(body)) {
          this.add("return", body, "undefined")
        }
        return
      }
    }
  }

  private call(node: Node): void {
    const callee = child(node, "callee")!
    const args = children(node, "arguments")
    const wrapper = effectCall(node)
    if (wrapper !== undefined && args.length > 0 && !args[0]!.type.includes("Function")) {
      this.add("effect", node, this.text(args[0]!))
      if (args.length === 2 && /^(?:andThen|race)/.test(wrapper) && !args[1]!.type.includes("Function")) {
        this.add("effect", node, this.text(args[1]!))
      }
    }
    if (callee.type !== "MemberExpression" || callee.computed === true) return
    const [object, property] = [child(callee, "object")!, child(callee, "property")!]
    const name = String(property.name)
    if (name === "pipe") {
      for (const arg of args) if (effectCall(arg) !== undefined) this.add("effect", arg, "(self: never) => self")
    } else if (forms.has(name)) this.add("method", node, this.text(object))
    else if (Object.hasOwn(methods, name) && child(node, "callee")!.optional !== true && object.name !== "Schema") {
      const text = this.source.slice(node.start, property.start) + methods[name]! +
        this.source.slice(property.end, node.end)
      this.add("method", node, text)
    }
  }

  private statement(node: Node): void {
    switch (node.type) {
      case "IfStatement":
        return this.condition(child(node, "test")!, false)
      case "WhileStatement":
      case "DoWhileStatement":
      case "ForStatement": {
        const test = child(node, "test")
        if (test !== undefined) this.condition(test, true)
        return
      }
      case "ExpressionStatement":
      case "BreakStatement":
      case "ContinueStatement":
      case "ThrowStatement":
        if (child(node, "expression")?.type !== "CallExpression" || !this.text(node).startsWith("super(")) {
          this.add("removal", node, "", "statement")
        }
        return
      case "ReturnStatement": {
        const argument = child(node, "argument")
        if (argument === undefined) this.add("removal", node, "", "statement")
        else if (!isVoid(argument) && !(argument.type === "Literal" && typeof argument.value === "boolean")) {
          this.add("return", argument, "undefined")
        }
        return
      }
      case "MethodDefinition":
      case "FunctionDeclaration":
      case "FunctionExpression":
      case "ArrowFunctionExpression": {
        const body = child(node, "body")
        if (body?.type === "BlockStatement" && children(body, "body").length > 1) {
          this.add("body", body, "", "body")
        }
      }
    }
  }
}

const oneLine = (text: string): string => {
  const flat = text.replaceAll(/\s+/g, " ")
  return flat.length > 70 ? `${flat.slice(0, 67)}...` : flat
}

/** A file with its changes. */
export interface Switched {
  readonly mutants: ReadonlyArray<Mutant>
  /** The source with each change behind `__m(id)`; as the original while no switch is on. */
  readonly text: string
}

/** Finds the mutants of a source file; their ids begin at `first`. */
export const switched = (file: string, source: string, first: number): Switched => {
  const finder = new Finder(source)
  // A node of the parser has the fields that `Node` reads; the types of the parser list each kind by itself.
  finder.visit(parseAst(source, { lang: "ts" }) as unknown as Node)
  const seen = new Set<string>()
  // a branch that is always or never taken says more than its negation
  const decided = new Set(
    finder.changes.filter(({ operator }) => operator === "condition" || operator === "operand").map(({ node }) => node)
  )
  const changes = finder.changes
    .filter(({ node, operator }) => operator !== "equality" || !decided.has(node))
    .toSorted((a, b) => a.node.start - b.node.start || b.node.end - a.node.end)
    .filter(({ node, place, text }) => {
      const key = `${node.start} ${node.end} ${place} ${text}`
      const isNew = !seen.has(key) && (place !== "expression" || source.slice(node.start, node.end) !== text)
      seen.add(key)
      return isNew
    })
  const starts = [0]
  for (const { index } of source.matchAll(/\n/g)) starts.push(index + 1)
  const mutants = changes.map(({ node, operator, place, text }, i): Mutant => {
    const line = starts.findLastIndex((start) => start <= node.start)
    return {
      id: first + i,
      file,
      line: line + 1,
      column: node.start - starts[line]! + 1,
      operator,
      original: oneLine(source.slice(node.start, node.end)),
      mutated: place === "expression" ? oneLine(text) : "nothing"
    }
  })

  // The text is written from the outside in: a place with changes, then the places inside of it.
  let next = 0
  const write = (from: number, to: number): string => {
    let text = ""
    let at = from
    while (next < changes.length && changes[next]!.node.start < to) {
      const { end, start } = changes[next]!.node
      const here: Array<number> = []
      while (next < changes.length && changes[next]!.node.start === start && changes[next]!.node.end === end) {
        here.push(next++)
      }
      text += source.slice(at, start) + place(here, start, end)
      at = end
    }
    return text + source.slice(at, to)
  }
  const place = (here: ReadonlyArray<number>, start: number, end: number): string => {
    const inside = write(start, end)
    const switches = (kind: Change["place"]) => here.filter((i) => changes[i]!.place === kind)
    let text = inside
    for (const i of switches("expression").toReversed()) text = `__m(${first + i}) ? (${changes[i]!.text}) : (${text})`
    if (text !== inside) text = `(${text})`
    for (const i of switches("statement")) text = `{ if (__m(${first + i})) {} else ${text} }`
    for (const i of switches("body")) text = `{ if (__m(${first + i})) return;${text.slice(1)}`
    return text
  }
  return { mutants, text: write(0, source.length) }
}
