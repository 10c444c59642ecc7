// Writes pipelines.json: what Hugging Face tokenizers make of each part of a
// tokenizer.json.
//
//   npm install tokenizers@0.23 && node make_pipelines.js > pipelines.json
//
// All cases share one model: a token for each character and, with "</w>", for
// each character that ends a word, so that ids show where words end.
const {Tokenizer} = require(process.env.TOKENIZERS || 'tokenizers');

const texts = [
  'Hello world', '  two  spaces ', 'a', ' ', '\n', 'tabs\t\tand\r\n\r\nlines\n',
  "don't I'LL we'Ve 'ſ 'tis ''s", '12345 3.14 ½ ٣٤ Ⅷ', 'x=y+1; a_b-c$^~`|<>',
  'e\u0301 \u00e9 \u1e0b\u0323 \ufb01 \u212b \uac01 \u1100\u1161\u11a8',
  'A\u030a\u0323 q\u0307\u0323 \u0344 \u2126 \u33a5',
  'ΣΑΣ İstanbul DŽ ǅ ǆ ẞ', '日本語 한국어 ไทย हिन्दी', '▁a▁▁b c',
  '\u00a0nbsp\u2003em\u3000wide\u2028line\u0085next', 'a\u200bb\u200dc\ufeffd',
  '🦙🏽 👩\u200d👧 𝒳𐐀', '«“”»—…‿⁀', 'aAbB fooBAR FOObar iPhone',
  'trailing   ', '   ', '\n\n  \n x', '<m> <m>x <m>  y', 'foo<s>foo food <S>',
];
const regexes = [
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  ' ?[^(\\s|[.,!?…。，、।۔،])]+', '[0-9][0-9][0-9]', '\\s+$', '^\\s*', '\\b\\w', 'o+?', '[a-c&&[^b]]+',
  '(?<=o)\\w', '(?<! )\\p{Lu}', '(?:a|ab)(?:c|bcd)*', '\\p{^L}+', '\\P{L}x?', '[[:space:]]+|[[:^digit:]]',
  '(?i)foo|bar', 'l{2}|o{1,}', '\\x41|\\u0062|\\x{63}', '[\\-a\\]]', '(?=o)', 'x*', 'a{,2}b', '\\d+|\\D',
  '(?>o+)', '\\S+?(?=l)',
];
const behaviors = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'];
const split = (pattern, behavior = 'Isolated', invert = false) =>
    ({type: 'Split', pattern, behavior, invert});
const sequence = (...pretokenizers) => ({type: 'Sequence', pretokenizers});
const byteLevel = (add_prefix_space, use_regex) =>
    ({type: 'ByteLevel', add_prefix_space, trim_offsets: true, use_regex});
const metaspace = (prepend_scheme, split) =>
    ({type: 'Metaspace', replacement: '▁', prepend_scheme, split});
const token = (id, content, more = {}) =>
    ({id, content, single_word: false, lstrip: false, rstrip: false,
      normalized: false, special: false, ...more});

const parts = [];
for (const Regex of regexes) parts.push({pre_tokenizer: split({Regex})});
for (const behavior of behaviors) {
  for (const invert of [false, true]) {
    parts.push({pre_tokenizer: split({String: ' '}, behavior, invert)});
    parts.push({pre_tokenizer: split({Regex: '\\p{Lu}|\\s'}, behavior, invert)});
  }
}
for (const use_regex of [false, true]) {
  for (const prefix of [false, true]) {
    parts.push({pre_tokenizer: byteLevel(prefix, use_regex),
                decoder: byteLevel(prefix, use_regex)});
  }
}
for (const split of [false, true]) {
  for (const scheme of ['always', 'first', 'never']) {
    parts.push({pre_tokenizer: metaspace(scheme, split), decoder: metaspace(scheme, split),
                added_tokens: [token(0, '<m>')]});
  }
}
parts.push(
    {pre_tokenizer: {type: 'Whitespace'}}, {pre_tokenizer: {type: 'WhitespaceSplit'}},
    {pre_tokenizer: {type: 'Digits', individual_digits: false}},
    {pre_tokenizer: {type: 'Digits', individual_digits: true}},
    {pre_tokenizer: {type: 'Punctuation', behavior: 'Isolated'}},
    {pre_tokenizer: {type: 'Punctuation', behavior: 'Contiguous'}},
    {pre_tokenizer: sequence({type: 'Digits', individual_digits: true}, byteLevel(false, true)),
     decoder: byteLevel(true, true)},
    {pre_tokenizer: sequence({type: 'WhitespaceSplit'}, metaspace('first', true))},
    {pre_tokenizer: sequence(split({Regex: '\\p{N}'}), split({String: 'o'}, 'Removed'),
                             byteLevel(true, false))});
for (const type of ['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase']) {
  parts.push({normalizer: {type}, pre_tokenizer: {type: 'WhitespaceSplit'},
              added_tokens: [token(0, 'foo', {normalized: true})]});
}
parts.push(
    {normalizer: {type: 'Strip', strip_left: true, strip_right: false}},
    {normalizer: {type: 'Strip', strip_left: false, strip_right: true}},
    {normalizer: {type: 'Sequence', normalizers: [
        {type: 'Prepend', prepend: '▁'},
        {type: 'Replace', pattern: {String: ' '}, content: '▁'}]},
     decoder: {type: 'Sequence', decoders: [
        {type: 'Replace', pattern: {String: '▁'}, content: ' '}, {type: 'ByteFallback'},
        {type: 'Fuse'}, {type: 'Strip', content: ' ', start: 1, stop: 0}]}},
    {normalizer: {type: 'Replace', pattern: {Regex: ' {2,}|o'}, content: '0'},
     decoder: {type: 'Sequence', decoders: [
        {type: 'Replace', pattern: {Regex: '</w>|0'}, content: ''}, {type: 'Fuse'},
        {type: 'Strip', content: 'a', start: 2, stop: 0}]}},
    {normalizer: {type: 'Replace', pattern: {Regex: '\\s*'}, content: '-'}},
    {decoder: {type: 'BPEDecoder', suffix: '</w>'}},
    {normalizer: {type: 'Lowercase'}, added_tokens: [
        token(0, '<s>', {special: true}), token(1, 'foo', {single_word: true, normalized: true}),
        token(2, '<m>', {lstrip: true, rstrip: true})]},
    {pre_tokenizer: metaspace('first', true), added_tokens: [
        token(0, '<s>', {special: true}), token(1, 'foo', {normalized: true}),
        token(2, '<m>', {rstrip: true}), token(3, 'foo<s>', {normalized: true})]});

const ids = {};
for (let i = 0; i < 4; ++i) ids['<unused' + i + '>'] = i;
const add = (character) => {
  for (const key of [character, character + '</w>']) {
    if (!(key in ids)) ids[key] = Object.keys(ids).length;
  }
};
'0-▁'.split('').forEach(add);
for (let b = 0; b < 512; ++b) add(String.fromCodePoint(b));
for (const text of texts) {
  for (const form of ['NFC', 'NFD', 'NFKC', 'NFKD']) {
    for (const c of text.normalize(form) + text.toLowerCase()) add(c);
  }
}
ids['<unk>'] = Object.keys(ids).length;
const model = {type: 'BPE', dropout: null, unk_token: '<unk>', continuing_subword_prefix: null,
               end_of_word_suffix: '</w>', fuse_unk: false, byte_fallback: false,
               ignore_merges: false, vocab: ids, merges: []};

(async () => {
  const cases = [];
  for (const part of parts) {
    for (const entry of part.added_tokens || []) {
      // Added tokens take over unused ids, so that the vocabulary is shared.
      entry.id += Object.keys(ids).length;
    }
    const tokenizer = Tokenizer.fromString(JSON.stringify({
      version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null,
      pre_tokenizer: null, post_processor: null, decoder: null, ...part, model}));
    const result = {part, ids: [], decoded: []};
    for (const text of texts) {
      const encoding = await tokenizer.encode(text, null, {addSpecialTokens: false});
      result.ids.push(encoding.getIds());
      result.decoded.push(await tokenizer.decode(encoding.getIds(), false));
    }
    cases.push(JSON.stringify(result));
  }
  console.log('{"texts": ' + JSON.stringify(texts) + ',\n"model": ' + JSON.stringify(model) +
              ',\n"cases": [\n' + cases.join(',\n') + '\n]}');
})();
