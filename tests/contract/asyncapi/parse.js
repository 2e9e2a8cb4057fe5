// Prints, for each of the documents in the JSON array on standard input, the errors that the AsyncAPI parser finds.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const parser = new Parser();
const found = [];
for (const document of JSON.parse(readFileSync(0, "utf8"))) {
  const diagnostics = await parser.validate(JSON.stringify(document));
  found.push(diagnostics.filter(({ severity }) => severity === 0).map(({ message, path }) => `${path.join(".")}: ${message}`));
}
console.log(JSON.stringify(found));
