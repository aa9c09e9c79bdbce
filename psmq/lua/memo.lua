-- What was worked out from a text, kept between calls: the calls of one program have few different ones.
local memo = {}

-- A thousand are kept at most; then all are forgotten, and the next are worked out again.
local most = 1000

-- make: text -> value | nil, refusal. What it gives is given to others, too: not to be changed. A refusal is not kept.
-- returns the same function, that works each text out once
function memo.of(make)
    local kept, count = {}, 0
    return function(text)
        local value, refusal = kept[text], nil
        if value == nil then
            value, refusal = make(text)
            if value ~= nil then
                if count >= most then
                    kept, count = {}, 0
                end
                kept[text], count = value, count + 1
            end
        end
        return value, refusal
    end
end
